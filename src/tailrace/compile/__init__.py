"""From a file to a plan that has been tried: load, resolve names, check, bind, rehearse, measure."""
