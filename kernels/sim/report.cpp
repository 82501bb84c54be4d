/*
 * report.cpp: what the checker prints. Part of checked builds only.
 */

#include "check.h"
#include "control.h"
#include "ptx.h"

#include <dlfcn.h>
#include <link.h>
#include <map>
#include <vector>

namespace simt {

/* Lines of addr2line, inlined ones first, joined. */
static std::string ask_addr2line(const void *pc)
{
    Dl_info     info;
    char        cmd[4200], line[512];
    std::string all;
    FILE       *f;

    if (!dladdr(pc, &info)) {
        return "?";
    }
    snprintf(cmd, sizeof cmd, "addr2line -s -i -e '%s' %#lx 2>/dev/null",
             info.dli_fname,
             (long) ((const char *) pc - (const char *) info.dli_fbase - 1));
    f = popen(cmd, "r");
    while (f && fgets(line, sizeof line, f)) {
        std::string s(line);
        s.resize(std::min(s.find('\n'), s.find(" (disc")));
        if (s.compare(0, 12, "intrinsics.h") != 0) {
            all += (all.empty() ? "" : " < ") + s;
        }
    }
    if (f) {
        pclose(f);
    }
    return all.empty() ? "?" : all;
}

std::string where(const void *pc)
{
    static std::map<const void *, std::string> known;
    const char *ptx = ptx_where(pc);

    if (ptx) {
        return ptx;
    }
    std::string &s = known[pc];
    if (s.empty()) {
        s = ask_addr2line(pc);
    }
    return s;
}

void report(const char *what, const void *p, size_t n, const void *pc,
    const void *other)
{
    static std::map<std::pair<std::string, const void *>, int> said;

    check_reports++;
    if (said[{what, pc}]++) {
        return;
    }
    fprintf(stderr, "simt-check: %s at %s (%zu bytes at %p)%s%s\n"
            "  kernel %s block (%u,%u,%u) thread (%u,%u,%u)\n", what,
            where(pc).c_str(), n, p, other ? "; other access at " : "",
            other ? where(other).c_str() : "",
            ptx_who.on ? ptx_who.kernel : cur_block->cfg->name, blockIdx.x,
            blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
}

struct Range {
    const char *lo, *hi;
};

static int add_image(dl_phdr_info *info, size_t, void *arg)
{
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) &h = info->dlpi_phdr[i];
        const char *lo = (const char *) info->dlpi_addr + h.p_vaddr;

        if (h.p_type == PT_LOAD) {
            ((std::vector<Range> *) arg)->push_back({lo, lo + h.p_memsz});
        }
    }
    return 0;
}

bool in_image(const void *p)
{
    static std::vector<Range> images;

    if (images.empty()) {
        dl_iterate_phdr(add_image, &images);
    }
    for (const Range &r : images) {
        if ((const char *) p >= r.lo && (const char *) p < r.hi) {
            return true;
        }
    }
    return false;
}

}  // namespace simt
