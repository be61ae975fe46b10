#!/bin/sh
# Prints the path of the first Python asked for that is whole (it makes venvs), or nothing and exits 1.
#   find_python.sh 3.13 python3.12  versions: of the system, on the PATH, of pyenv
#   find_python.sh /opt/python      or a program
# The system's comes first: it is built with profile-guided optimisation, and 10 to 20% faster than pyenv's.

is_whole() {
    "$1" -c "import sys, ensurepip, ssl, venv; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1
}

for wanted in "$@"; do
    case $wanted in
    3.[0-9]* | python3.[0-9]*)
        wanted=${wanted#python}
        newest=$(ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/$wanted."*/bin/python 2>/dev/null | sort -V | tail -n 1)
        set -- "/usr/bin/python$wanted" "$(command -v "python$wanted")" "$newest"
        ;;
    *) set -- "$(command -v "$wanted")" ;;
    esac
    for found in "$@"; do
        if test -n "$found" && is_whole "$found"; then
            echo "$found"
            exit 0
        fi
    done
done
exit 1
