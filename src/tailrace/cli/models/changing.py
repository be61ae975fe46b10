"""`tailrace models alias`, `tag` and `delete`: what may change of a version, and its end."""

from __future__ import annotations

from typing import Annotated

import typer

from tailrace.cli.models.options import RegistryUrl, TrustedKeys, VersionArgument, opened
from tailrace.cli.printing import AsJson, print_json
from tailrace.errors import RegistryError


def alias(
    name: Annotated[
        str, typer.Argument(metavar="NAME@ALIAS", help="The alias, such as fraud@production.", show_default=False)
    ],
    registry: RegistryUrl,
    version: Annotated[
        str | None,
        typer.Argument(metavar="[VERSION]", help="The number, or another alias, of the version it shall name."),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the alias.")] = False,
    trusted_key: TrustedKeys = None,
    as_json: AsJson = False,
) -> None:
    """Have an alias name a version: a new alias, or one that moves. Or remove it.

    What is served stays as it is: an alias is looked up when a release is made.

    For example:

        tailrace models alias fraud@production 3 --registry s3://models/team
    """
    from tailrace.release.registry.notes import remove_alias, set_alias
    from tailrace.release.registry.reference import Reference

    reference = Reference.parse(name)
    if reference.alias is None:
        raise RegistryError("it names a version, and no alias", where=name, next="write NAME@ALIAS")
    if (version is None) != remove:
        raise RegistryError("say either which version it shall name, or --remove", where=name)
    found = opened(registry, trusted_key)
    number: int | None = None
    if version is None:
        before: int | None = remove_alias(found, reference.alias, reference.name)
    else:
        wanted = Reference.parse(version if "@" in version else f"{reference.name}@{version}")
        if wanted.name != reference.name:
            raise RegistryError(f"an alias of {reference.name} names no version of {wanted.name}", where=version)
        number = found.resolve(wanted).record.number
        before = set_alias(found, reference.alias, reference.name, number)
    if as_json:
        print_json({"name": reference.name, "alias": reference.alias, "number": number, "before": before})
    else:
        was = "" if before is None else f", it was {before}"
        print(f"{reference} is {'removed' if number is None else number}{was}")


def tag(
    version: VersionArgument,
    tag: Annotated[str, typer.Argument(metavar="TAG", help="The tag's name, such as reviewed-by.", show_default=False)],
    registry: RegistryUrl,
    value: Annotated[str | None, typer.Argument(metavar="[VALUE]", help="What is noted.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the tag.")] = False,
    trusted_key: TrustedKeys = None,
    as_json: AsJson = False,
) -> None:
    """Note something of a version, or remove the note.

    For example:

        tailrace models tag fraud@3 reviewed-by risk --registry s3://models/team
    """
    from tailrace.release.registry.notes import remove_tag, set_tag
    from tailrace.release.registry.reference import Reference

    if (value is None) != remove:
        raise RegistryError("say either what is noted, or --remove", where=tag)
    found = opened(registry, trusted_key)
    record = found.resolve(Reference.parse(version)).record
    if value is None:
        remove_tag(found, record.name, record.number, tag)
    else:
        set_tag(found, record.name, record.number, tag, value)
    if as_json:
        print_json({"version": record.reference, "tag": tag, "value": value})
    else:
        print(f"{record.reference}: {tag} is {'removed' if value is None else value}")


def delete(version: VersionArgument, registry: RegistryUrl, as_json: AsJson = False) -> None:
    """Delete a version, by its number. Refused while an alias or a hold needs it; its number is not given again.

    Its files go with the next `tailrace models gc`, unless another version has the same.

    For example:

        tailrace models delete fraud@2 --registry s3://models/team
    """
    from tailrace.release.registry.garbage import delete as delete_version
    from tailrace.release.registry.reference import Reference

    reference = Reference.parse(version)
    if reference.number is None:
        raise RegistryError("it names an alias", where=version, next="delete by number: NAME@NUMBER")
    found = opened(registry, None)
    delete_version(found, reference.name, reference.number)
    if as_json:
        print_json({"deleted": str(reference)})
    else:
        print(f"{reference} is deleted")
