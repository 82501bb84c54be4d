/*
 * ptx_cover.cpp: which statements of the PTX files ran. One file a process,
 * in the directory SIMT_PTX_COVER names: a line for each instruction, with
 * tabs: PTX file, PTX line, kernel or function, file:line of the source,
 * times executed by a warp, text. ptx_cover.py merges.
 */

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "ptx_int.h"

namespace simt {
namespace ptx {

void cover_write()
{
    const char *dir = getenv("SIMT_PTX_COVER");

    if (!dir)
        return;
    std::string path = std::string(dir) + "/" + std::to_string(getpid())
        + ".cover";
    FILE *f = fopen(path.c_str(), "w");
    if (!f) {
        fprintf(stderr, "ptx: cannot write %s\n", path.c_str());
        return;
    }
    for (auto &m : modules())
        for (auto &e : m.funcs)
            for (auto &s : e.second.body)
                if (s.what == Stmt::OP)
                    fprintf(f, "%s\t%d\t%s\t%s:%d\t%llu\t%s\n",
                        m.path.c_str(), s.at, e.first.c_str(),
                        s.file.c_str(), s.line, (unsigned long long) s.runs,
                        s.text.c_str());
    fclose(f);
}

}  // namespace ptx
}  // namespace simt
