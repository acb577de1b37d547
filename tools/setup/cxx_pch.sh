#!/bin/sh
# C++ compiler that parses torch's headers once instead of once per file.
#
# Used as CXX for builds of mmcv: each of its ~80 small sources spends most of its time in <torch/types.h>. The first
# call precompiles that header with the flags at hand; calls that come before it is ready compile as usual, so no core
# waits. Whatever goes wrong with the precompiled header, the file is compiled without it.
#
#   MMREV_CXX      the real compiler (default: c++)
#   MMREV_PCH_DIR  an empty folder for the precompiled header (about 450 MB); unset: a plain call of the compiler
set -eu
cxx=${MMREV_CXX:-c++}

compiles=no
source=
for argument in "$@"; do
    case $argument in
    -c) compiles=yes ;;
    *.cpp) source=$argument ;;
    esac
done
if [ -z "${MMREV_PCH_DIR:-}" ] || [ "$compiles" = no ] || [ -z "$source" ]; then
    exec $cxx "$@"
fi

header=$MMREV_PCH_DIR/prelude.hpp
if mkdir "$MMREV_PCH_DIR/claimed" 2>/dev/null; then
    # Same flags as the source, because GCC refuses a precompiled header made with others.
    echo '#include <torch/types.h>' >"$header"
    rebuilt=
    skip=no
    for argument in "$@"; do
        if [ "$skip" = yes ]; then
            skip=no
            continue
        fi
        case $argument in
        -o | -MF) skip=yes ;;
        -c | -MMD | *.cpp) ;;
        *) rebuilt="$rebuilt '$argument'" ;;
        esac
    done
    if eval "$cxx $rebuilt -x c++-header '$header' -o '$header.tmp'" >&2; then
        mv "$header.tmp" "$header.gch"
    else
        rm -f "$header.tmp"
    fi
fi
if [ -e "$header.gch" ]; then
    exec $cxx -include "$header" "$@"
fi
exec $cxx "$@"
