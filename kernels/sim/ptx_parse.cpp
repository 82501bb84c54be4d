/*
 * ptx_parse.cpp: PTX text -> Module. Knows the shape of the language
 * (comments, scopes, labels, statements, declarations), not its instructions.
 */

#include <cctype>
#include <cstdio>
#include <cstdlib>

#include "ptx_int.h"

namespace simt {
namespace ptx {

std::string trim(const std::string &s)
{
    size_t a = s.find_first_not_of(" \t\r\n");
    size_t b = s.find_last_not_of(" \t\r\n");

    return a == s.npos ? "" : s.substr(a, b - a + 1);
}

std::vector<std::string> split(const std::string &s)
{
    std::vector<std::string> out;
    std::string t;
    int depth = 0;

    for (char c : s) {
        depth += c == '(' || c == '[' || c == '{';
        depth -= c == ')' || c == ']' || c == '}';
        if (c == ',' && depth == 0) {
            out.push_back(trim(t));
            t.clear();
        } else {
            t += c;
        }
    }
    if (!trim(t).empty())
        out.push_back(trim(t));
    return out;
}

static std::vector<std::string> words(const std::string &s)
{
    std::vector<std::string> out;

    for (size_t p = 0; p < s.size();) {
        size_t a = s.find_first_not_of(" \t\r\n", p);
        if (a == s.npos)
            break;
        p = s.find_first_of(" \t\r\n", a);
        if (p == s.npos)
            p = s.size();
        out.push_back(s.substr(a, p - a));
    }
    return out;
}

u32 type_size(const std::string &t)
{
    static const std::map<std::string, u32> sizes = {
        {"b8", 1}, {"u8", 1}, {"s8", 1}, {"b16", 2}, {"u16", 2}, {"s16", 2},
        {"f16", 2}, {"bf16", 2}, {"b32", 4}, {"u32", 4}, {"s32", 4},
        {"f32", 4}, {"f16x2", 4}, {"bf16x2", 4}, {"b64", 8}, {"u64", 8},
        {"s64", 8}, {"f64", 8}};
    auto it = sizes.find(t);

    return it == sizes.end() ? 0 : it->second;
}

void declaration(const std::string &s, std::string &name, s64 &bytes,
    u32 &align)
{
    bool pointer = false;
    u32 element = 1;
    std::vector<std::string> w = words(s);

    align = 0;
    for (size_t i = 0; i + 1 < w.size(); i++) {
        u32 n = type_size(w[i].substr(w[i][0] == '.'));
        if (n)
            element = n;
        pointer |= w[i] == ".ptr";
        if (w[i] == ".align" && !pointer)
            align = (u32) atoi(w[i + 1].c_str());
    }
    if (!align)
        align = element;
    name = w.empty() ? "" : w.back();
    bytes = element;
    size_t b = name.find('[');
    if (b != name.npos) {
        bytes = name[b + 1] == ']' ? -1 : element * atoll(&name[b + 1]);
        name.resize(b);
    }
}

/* One file on its way to a Module. */
class Parser {
public:
    Parser(Module &m, const std::string &text) : m_(m), t_(text) {}
    void run();

private:
    [[noreturn]] void fail(const char *why);
    void skip_blank();
    void skip_line() { p_ = std::min(t_.find('\n', p_), t_.size()); }
    bool at(const char *s) { return t_.compare(p_, strlen(s), s) == 0; }
    int line_at(size_t p);
    size_t closing(size_t open);
    void file_names();
    void function();
    void param_list(size_t open, size_t close, std::vector<Param> &out);
    void global(const std::string &s);
    void body(Func &f, size_t end);
    void location();
    Stmt stmt(Stmt::What what, const std::string &text);

    Module &m_;
    const std::string &t_;
    size_t p_ = 0, counted_ = 0;
    int lines_ = 1;
    std::map<int, std::string> files_;
    std::string file_ = "?";
    int line_ = 0;
};

void Parser::fail(const char *why)
{
    fprintf(stderr, "ptx: %s:%d: %s\n", m_.path.c_str(), line_at(p_), why);
    fflush(nullptr);
    _Exit(98);
}

/* Positions are asked for in ascending order. */
int Parser::line_at(size_t p)
{
    for (; counted_ < p && counted_ < t_.size(); counted_++)
        lines_ += t_[counted_] == '\n';
    return lines_;
}

void Parser::skip_blank()
{
    while (p_ < t_.size() && isspace((unsigned char) t_[p_]))
        p_++;
}

size_t Parser::closing(size_t open)
{
    int depth = 0;

    for (size_t p = open; p < t_.size(); p++) {
        depth += t_[p] == '{' || t_[p] == '(';
        depth -= t_[p] == '}' || t_[p] == ')';
        if (depth == 0)
            return p;
    }
    fail("unbalanced braces");
}

/* .file directives may follow the code that names them. */
void Parser::file_names()
{
    for (size_t p = 0; (p = t_.find(".file", p)) != t_.npos; p++) {
        int id;
        char name[1024];
        if (sscanf(&t_[p], ".file %d \"%1023[^\"]\"", &id, name) == 2) {
            const char *slash = strrchr(name, '/');
            files_[id] = slash ? slash + 1 : name;
        }
    }
}

void Parser::run()
{
    file_names();
    for (skip_blank(); p_ < t_.size(); skip_blank()) {
        if (at(".version") || at(".target") || at(".address_size")
            || at(".file"))
        {
            skip_line();
            continue;
        }
        if (at(".section")) {
            p_ = closing(t_.find('{', p_)) + 1;
            continue;
        }
        size_t semi = t_.find(';', p_), brace = t_.find('{', p_);
        std::string head = t_.substr(p_, std::min(semi, brace) - p_);
        if (head.find(".entry") != head.npos
            || head.find(".func") != head.npos)
        {
            function();
            continue;
        }
        if (semi == t_.npos)
            fail("no end of a declaration");
        std::string s = t_.substr(p_, semi - p_);
        if (head.find(".shared") != head.npos)
            m_.shared.push_back(trim(s));
        else if (head.find(".global") != head.npos
            || head.find(".const") != head.npos)
            global(s);
        else if (head.find(".pragma") == head.npos)
            fail("unknown declaration");
        p_ = semi + 1;
    }
}

void Parser::param_list(size_t open, size_t close, std::vector<Param> &out)
{
    u32 offset = 0;

    for (auto &s : split(t_.substr(open + 1, close - open - 1))) {
        Param a;
        s64 bytes;
        declaration(s, a.name, bytes, a.align);
        a.size = (u32) bytes;
        offset = (offset + a.align - 1) / a.align * a.align;
        a.offset = offset;
        offset += a.size;
        out.push_back(a);
    }
}

/* .entry name(params) directives { body }, .func (result) name(params) ... */
void Parser::function()
{
    Func f;
    size_t entry = t_.find(".entry", p_), func = t_.find(".func", p_);

    f.entry = entry < func;
    p_ = f.entry ? entry + 6 : func + 5;
    skip_blank();
    if (t_[p_] == '(') {
        size_t close = closing(p_);
        param_list(p_, close, f.results);
        p_ = close + 1;
        skip_blank();
    }
    size_t end = t_.find_first_of(" \t\r\n({;", p_);
    f.name = t_.substr(p_, end - p_);
    p_ = end;
    skip_blank();
    if (t_[p_] == '(') {
        size_t close = closing(p_);
        param_list(p_, close, f.params);
        p_ = close + 1;
    }
    p_ = t_.find_first_of("{;", p_);
    if (p_ == t_.npos)
        fail("no body of a function");
    if (t_[p_] == ';') {          /* declared only */
        p_++;
        return;
    }
    end = closing(p_++);
    body(f, end);
    p_ = end + 1;
    m_.funcs[f.name] = f;
}

void Parser::global(const std::string &s)
{
    Global g;
    s64 bytes;
    u32 align, element = 1;
    size_t eq = s.find('=');

    declaration(s.substr(0, eq), g.name, bytes, align);
    if (bytes < 0)
        return;                   /* .extern: defined elsewhere, or not */
    g.bytes.resize((size_t) bytes);
    for (auto &w : words(s.substr(0, eq)))
        if (u32 n = type_size(w.substr(w[0] == '.')))
            element = n;
    size_t at = 0;
    std::string v = eq == s.npos ? "" : trim(s.substr(eq + 1));
    if (!v.empty() && v[0] == '{')
        v = v.substr(1, v.size() - 2);
    for (auto &x : split(v)) {
        bool real = x.size() > 2 && x[0] == '0' && strchr("fFdD", x[1]);
        char *rest;
        u64 bits = real ? strtoull(&x[2], &rest, 16)
            : x[0] == '-' ? (u64) strtoll(x.c_str(), &rest, 0)
            : strtoull(x.c_str(), &rest, 0);
        if (*rest || at + element > g.bytes.size())
            fail("initial value that is no number");
        memcpy(&g.bytes[at], &bits, element);
        at += element;
    }
    m_.globals.push_back(g);
}

/* .loc file line column [, function_name label+n, inlined_at file line col]:
 * of inlined code the place of the call counts. */
void Parser::location()
{
    size_t end = std::min(t_.find('\n', p_), t_.size());
    std::string s = t_.substr(p_, end - p_);
    int file = 0;
    size_t call = s.find("inlined_at");

    if (call != s.npos)
        sscanf(&s[call], "inlined_at %d %d", &file, &line_);
    else
        sscanf(s.c_str(), ".loc %d %d", &file, &line_);
    file_ = files_[file];
    p_ = end;
}

Stmt Parser::stmt(Stmt::What what, const std::string &text)
{
    Stmt s;

    s.what = what;
    s.text = text;
    for (char &c : s.text)
        if (c == '\n' || c == '\t' || c == '\r')
            c = ' ';
    s.file = file_;
    s.line = line_;
    s.at = line_at(p_);
    s.runs = 0;
    return s;
}

void Parser::body(Func &f, size_t end)
{
    for (skip_blank(); p_ < end; skip_blank()) {
        char c = t_[p_];
        if (c == '{' || c == '}') {
            f.body.push_back(stmt(c == '{' ? Stmt::OPEN : Stmt::CLOSE, ""));
            p_++;
            continue;
        }
        if (c == ';') {
            p_++;
            continue;
        }
        if (at(".loc\t") || at(".loc ")) {
            location();
            continue;
        }
        size_t stop = t_.find_first_of(" \t\r\n;:", p_);
        if (t_[stop] == ':' && t_[stop + 1] != ':') {
            f.body.push_back(stmt(Stmt::LABEL,
                t_.substr(p_, stop - p_)));
            p_ = stop + 1;
            continue;
        }
        size_t semi = t_.find(';', p_);
        std::string s = trim(t_.substr(p_, semi - p_));
        if (semi > end)
            fail("no end of a statement");
        if (s.compare(0, 7, ".pragma") != 0)
            f.body.push_back(stmt(s[0] == '.' ? Stmt::DIRECTIVE : Stmt::OP,
                s));
        p_ = semi + 1;
    }
}

/* Comments become blanks; lines stay where they are. */
static std::string strip(const std::string &s)
{
    std::string t = s;

    for (size_t p = 0; (p = t.find('/', p)) != t.npos; p++) {
        if (t[p + 1] == '/') {
            for (; p < t.size() && t[p] != '\n'; p++)
                t[p] = ' ';
        } else if (t[p + 1] == '*') {
            size_t end = std::min(t.find("*/", p + 2), t.size() - 2) + 2;
            for (; p < end; p++)
                t[p] = t[p] == '\n' ? '\n' : ' ';
        }
    }
    return t;
}

void parse(const std::string &path, Module &m)
{
    FILE *f = fopen(path.c_str(), "r");
    std::string text;
    char buf[65536];

    if (!f) {
        fprintf(stderr, "ptx: cannot open %s\n", path.c_str());
        _Exit(98);
    }
    for (size_t n; (n = fread(buf, 1, sizeof(buf), f)) > 0;)
        text.append(buf, n);
    fclose(f);
    size_t slash = path.rfind('/');
    m.path = slash == path.npos ? path : path.substr(slash + 1);
    text = strip(text);
    Parser(m, text).run();
}

}  // namespace ptx
}  // namespace simt
