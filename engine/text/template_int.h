/*
 * template_int.h: what the files of the template interpreter share; nobody
 * else includes it. Errors leave by tpl_fail(), a longjmp to compile or
 * render: everything that was allocated lies in one arena with a cap, so
 * nothing is lost. Two lifetimes: a compiled template (arena of the tree,
 * read-only once made) and one render (arena of values and output).
 *
 * Strings are UTF-8 (source and variables are checked); lengths and indices
 * that a template sees count code points. Each byte of a string is the
 * template's or the client's and stays so wherever it is copied to: whatever
 * makes a string of another one says so, by tpl_sub, tpl_put_part or
 * tpl_put_as.
 */

#ifndef INFER_TEXT_TEMPLATE_INT_H
#define INFER_TEXT_TEMPLATE_INT_H

#include <setjmp.h>
#include <string.h>

#include "text/template.h"

#define TPL_MAX_SOURCE    (1u << 20)
#define TPL_COMPILE_CAP   (64u << 20)
#define TPL_RENDER_CAP    (64u << 20)   /* and eight times max_output */
#define TPL_MAX_NEST      100           /* parser */
#define TPL_EVAL_DEPTH    8             /* expressions per max_depth */
#define TPL_MAX_RANGE     100000
#define TPL_STEP_BYTES    256           /* bytes looked at for one step */

enum {
    TPL_UNDEF, TPL_NONE, TPL_BOOL, TPL_INT, TPL_FLOAT, TPL_STR, TPL_LIST,
    TPL_TUPLE, TPL_DICT, TPL_NS, TPL_LOOP, TPL_MACRO, TPL_FUNC, TPL_METHOD,
    TPL_STATE
};

typedef struct tpl_val_s    tpl_val_t;
typedef struct tpl_ctx_s    tpl_ctx_t;
typedef struct tpl_node_s   tpl_node_t;
typedef struct tpl_frame_s  tpl_frame_t;

typedef struct {
    tpl_val_t  *v;
    uint32_t    n, cap;
} tpl_list_t;

typedef struct tpl_dict_s    tpl_dict_t;
typedef struct tpl_loop_s    tpl_loop_t;
typedef struct tpl_macro_s   tpl_macro_t;
typedef struct tpl_method_s  tpl_method_t;
typedef struct tpl_state_s   tpl_state_t;
typedef struct tpl_func_s    tpl_func_t;

/* Whose text a string is. */
enum { TPL_TEMPLATE, TPL_CLIENT, TPL_MIXED };

/* UNDEF: s is the name for the message. flag of a string: whose it is; of a
 * tuple: 1, it is a group of groupby(). client, of a mixed string: for each
 * byte 1 where it is the client's. */
struct tpl_val_s {
    uint8_t         kind;
    uint8_t         flag;
    uint32_t        len;
    const uint8_t  *client;
    union {
        int64_t            i;
        double             f;
        const char        *s;
        tpl_list_t        *list;
        tpl_dict_t        *dict;
        tpl_loop_t        *loop;
        tpl_macro_t       *macro;
        tpl_method_t      *method;
        tpl_state_t       *state;
        const tpl_func_t  *func;
    } u;
};

/* Keeps the order of insertion; index is an open-addressed table that is
 * made when a dict with more than 8 members is searched. */
struct tpl_dict_s {
    tpl_val_t  *keys, *vals;
    uint32_t   *index;
    uint32_t    n, cap, mask;
};

typedef struct {
    tpl_val_t  name;
    tpl_val_t  v;
} tpl_kw_t;

typedef struct {
    tpl_val_t  *pos;
    tpl_kw_t   *kw;
    uint32_t    n, n_kw;
} tpl_args_t;

/* Filters, tests, methods and functions alike; self is the filtered or
 * tested value, the object of a method, UNDEF for a function. */
typedef tpl_val_t (*tpl_fn_pt)(tpl_ctx_t *c, tpl_val_t self,
    const tpl_args_t *a);

struct tpl_func_s {
    const char  *name;
    tpl_fn_pt    fn;
};

struct tpl_method_s {
    tpl_val_t          self;
    const tpl_func_t  *func;
};

struct tpl_macro_s {
    const tpl_node_t  *node;
    tpl_frame_t       *frame;    /* where it was defined */
};

struct tpl_loop_s {
    tpl_list_t  *items;
    uint32_t     index0;
    tpl_val_t    changed;        /* last argument tuple of changed() */
};

/* cycler and joiner */
struct tpl_state_s {
    tpl_list_t  *items;
    uint32_t     pos;
    uint8_t      joiner;
};

struct tpl_frame_s {
    tpl_frame_t  *up;
    uint32_t     *names;
    tpl_val_t    *vals;
    uint32_t      n, cap;
};

/* Growing text in the arena; client is NULL until some of it is the
 * client's. */
typedef struct {
    char     *p;
    uint8_t  *client;
    size_t    len, cap;
} tpl_buf_t;

typedef struct tpl_chunk_s  tpl_chunk_t;

struct tpl_ctx_s {
    jmp_buf                  env;
    infer_err_t             *err;
    int                      rc;
    uint32_t                 line;       /* of what is being done */
    tpl_chunk_t             *chunks;
    size_t                   total, cap; /* bytes of the arena */

    /* render only */
    const infer_template_t  *tpl;
    tpl_dict_t              *globals;
    tpl_buf_t               *out;
    uint64_t                 steps;      /* left */
    uint32_t                 depth, eval_depth, max_depth;
    size_t                   max_output;
    uint64_t                 seed;       /* of dict hashes */
    int64_t                  now;
};

/* Tokens */
enum {
    TPL_T_EOF, TPL_T_DATA, TPL_T_BLOCK_BEGIN, TPL_T_BLOCK_END,
    TPL_T_VAR_BEGIN, TPL_T_VAR_END, TPL_T_NAME, TPL_T_STR, TPL_T_INT,
    TPL_T_FLOAT, TPL_T_OP
};

/* Ids of names that every template has. */
enum { TPL_ID_LOOP, TPL_ID_VARARGS, TPL_ID_KWARGS, TPL_ID_CALLER };

/* Operators: one character is itself. */
enum {
    TPL_OP_EQ = 128, TPL_OP_NE, TPL_OP_LE, TPL_OP_GE, TPL_OP_FLOOR,
    TPL_OP_POW, TPL_OP_IN, TPL_OP_NOT_IN
};

typedef struct {
    uint8_t    type;
    uint8_t    op;
    uint32_t   line;
    tpl_val_t  v;            /* text of data, names and strings; numbers */
} tpl_token_t;

typedef struct {
    tpl_token_t  *t;
    uint32_t      n, cap;
} tpl_tokens_t;

/* Tree. list chains by next; what a, b, c and list hold is written beside
 * each kind. */
enum {
    TPL_N_CONST,      /* v */
    TPL_N_NAME,       /* id */
    TPL_N_LIST,       /* list */
    TPL_N_TUPLE,      /* list */
    TPL_N_DICT,       /* list of PAIR */
    TPL_N_PAIR,       /* a: b */
    TPL_N_NEG, TPL_N_POS, TPL_N_NOT,                    /* a */
    TPL_N_BINARY,     /* a op b */
    TPL_N_AND, TPL_N_OR,                                /* a, b */
    TPL_N_COMPARE,    /* a, list of CMP (op, a) */
    TPL_N_CMP,
    TPL_N_COND,       /* a if b else c */
    TPL_N_ATTR,       /* a.v */
    TPL_N_ITEM,       /* a[b] */
    TPL_N_SLICE,      /* a:b:c, only as b of ITEM */
    TPL_N_CALL,       /* a(list) */
    TPL_N_FILTER,     /* a | func(list); a NULL in a filter block */
    TPL_N_TEST,       /* a is func(list) */
    TPL_N_KWARG,      /* v = a, in lists of arguments */
    TPL_N_STAR, TPL_N_STARSTAR,                         /* a, likewise */

    TPL_N_DATA,       /* v */
    TPL_N_OUTPUT,     /* a */
    TPL_N_IF,         /* list of BRANCH */
    TPL_N_BRANCH,     /* a (NULL: else), list */
    TPL_N_FOR,        /* a target, b iterable, c condition, list, d else */
    TPL_N_SET,        /* a target, b value */
    TPL_N_SETBLOCK,   /* a target, b filters, list */
    TPL_N_MACRO,      /* id, a parameters (PARAM), list; flag caller block */
    TPL_N_PARAM,      /* id, a default or NULL */
    TPL_N_CALLBLOCK,  /* a call, b MACRO */
    TPL_N_FILTERBLOCK,/* b filters, list */
    TPL_N_WITH,       /* a list of SET, list */
    TPL_N_GROUP,      /* list: what generation and the like hold */
    TPL_N_DO,         /* a */
    TPL_N_BREAK, TPL_N_CONTINUE
};

struct tpl_node_s {
    uint8_t            kind;
    uint8_t            op;
    uint32_t           line;
    uint32_t           id;       /* of a name */
    tpl_node_t        *a, *b, *c, *d;
    tpl_node_t        *list, *next;
    const tpl_func_t  *func;     /* NULL: unknown, v has the name */
    tpl_val_t          v;
};

struct infer_template_s {
    tpl_chunk_t  *chunks;
    tpl_node_t   *body;
    tpl_val_t    *names;         /* by id */
    uint32_t      n_names, cap_names;
};


/* template_mem.c: arena, errors, growing text, code points */
void *tpl_alloc(tpl_ctx_t *c, size_t n);
void *tpl_array(tpl_ctx_t *c, size_t n, size_t size);
void tpl_free_chunks(tpl_chunk_t *ch);
__attribute__((noreturn, format(printf, 3, 4)))
void tpl_fail(tpl_ctx_t *c, int rc, const char *fmt, ...);
void tpl_charge(tpl_ctx_t *c, size_t bytes);
void tpl_step(tpl_ctx_t *c);
void tpl_put(tpl_ctx_t *c, tpl_buf_t *b, const char *s, size_t n);
void tpl_puts(tpl_ctx_t *c, tpl_buf_t *b, const char *s);
void tpl_put_as(tpl_ctx_t *c, tpl_buf_t *b, const char *s, size_t n,
    int client);
void tpl_put_part(tpl_ctx_t *c, tpl_buf_t *b, tpl_val_t v, size_t at,
    size_t n);
void tpl_put_str(tpl_ctx_t *c, tpl_buf_t *b, tpl_val_t v);
void tpl_put_cp(tpl_ctx_t *c, tpl_buf_t *b, uint32_t cp, int client);
tpl_val_t tpl_buf_str(const tpl_buf_t *b);
int tpl_is_client(tpl_val_t s, size_t at);
void tpl_copy_client(uint8_t *to, tpl_val_t s);
tpl_val_t tpl_sub(tpl_val_t s, size_t at, size_t n);
int tpl_utf8_valid(const char *s, size_t n);
uint32_t tpl_cp(const char *s, size_t n, uint32_t *cp);
uint32_t tpl_utf8_count(tpl_ctx_t *c, tpl_val_t s);
int tpl_is_space(uint32_t cp);
uint32_t tpl_to_lower(uint32_t cp);
uint32_t tpl_to_upper(uint32_t cp);
int tpl_is_alpha(uint32_t cp);

/* template_lex.c, template_parse.c, template_stmt.c */
void tpl_lex(tpl_ctx_t *c, const char *src, size_t len, tpl_tokens_t *out);

typedef struct {
    tpl_ctx_t         *c;
    tpl_tokens_t       toks;
    uint32_t           pos;
    uint32_t           depth;
    uint32_t           loops;      /* for bodies around, in this macro */
    infer_template_t  *tpl;
} tpl_parser_t;

tpl_node_t *tpl_parse(tpl_parser_t *p);
tpl_node_t *tpl_parse_expr(tpl_parser_t *p);
tpl_node_t *tpl_parse_tuple(tpl_parser_t *p, int with_cond);
tpl_node_t *tpl_parse_postfix(tpl_parser_t *p, tpl_node_t *n);
tpl_node_t *tpl_parse_filters(tpl_parser_t *p, tpl_node_t *n, int first);
tpl_node_t *tpl_parse_primary(tpl_parser_t *p);
tpl_node_t *tpl_node(tpl_parser_t *p, int kind);
uint32_t tpl_name_id(tpl_parser_t *p, tpl_val_t name);
void tpl_parse_enter(tpl_parser_t *p);
int tpl_is_op(const tpl_parser_t *p, int op);
int tpl_take_op(tpl_parser_t *p, int op);
int tpl_is_name(const tpl_parser_t *p, const char *s);
int tpl_take_name(tpl_parser_t *p, const char *s);
void tpl_expect_op(tpl_parser_t *p, int op);
tpl_val_t tpl_expect_name(tpl_parser_t *p);
__attribute__((noreturn))
void tpl_unexpected(tpl_parser_t *p);

/* template_value.c, template_print.c */
tpl_val_t tpl_str(const char *s, size_t n);
tpl_val_t tpl_cstr(const char *s);
tpl_val_t tpl_int(int64_t i);
tpl_val_t tpl_float(double f);
tpl_val_t tpl_bool(int b);
tpl_val_t tpl_none(void);
tpl_val_t tpl_undef(const char *name, size_t n);
int tpl_is_str(tpl_val_t v, const char *s);
int tpl_is_seq(tpl_val_t v);
int tpl_is_num(tpl_val_t v);
double tpl_num(tpl_val_t v);
const char *tpl_type_name(tpl_val_t v);
int tpl_truth(tpl_val_t v);
tpl_val_t tpl_new_list(tpl_ctx_t *c, int kind, uint32_t cap);
void tpl_push(tpl_ctx_t *c, tpl_val_t list, tpl_val_t v);
tpl_val_t tpl_pair(tpl_ctx_t *c, tpl_val_t a, tpl_val_t b);
tpl_val_t tpl_new_dict(tpl_ctx_t *c, uint32_t cap);
void tpl_dict_add(tpl_ctx_t *c, tpl_dict_t *d, tpl_val_t k, tpl_val_t v);
void tpl_dict_set(tpl_ctx_t *c, tpl_dict_t *d, tpl_val_t k, tpl_val_t v);
tpl_val_t *tpl_dict_get(tpl_ctx_t *c, tpl_dict_t *d, tpl_val_t k);
void tpl_dict_del(tpl_ctx_t *c, tpl_dict_t *d, tpl_val_t k);
tpl_val_t tpl_iter(tpl_ctx_t *c, tpl_val_t v);
int tpl_equal(tpl_ctx_t *c, tpl_val_t a, tpl_val_t b);
int tpl_less(tpl_ctx_t *c, tpl_val_t a, tpl_val_t b, const char *op);
int tpl_contains(tpl_ctx_t *c, tpl_val_t box, tpl_val_t v);
void tpl_enter(tpl_ctx_t *c);
void tpl_leave(tpl_ctx_t *c);
void tpl_print(tpl_ctx_t *c, tpl_buf_t *b, tpl_val_t v);
void tpl_repr(tpl_ctx_t *c, tpl_buf_t *b, tpl_val_t v);
tpl_val_t tpl_to_str(tpl_ctx_t *c, tpl_val_t v);
void tpl_json(tpl_ctx_t *c, tpl_buf_t *b, tpl_val_t v, int indent,
    int level, int sort, int ascii);
tpl_val_t tpl_from_json(tpl_ctx_t *c, json_t *j);
tpl_val_t tpl_format(tpl_ctx_t *c, tpl_val_t fmt, tpl_val_t args);

/* template_op.c */
tpl_val_t tpl_binary(tpl_ctx_t *c, int op, tpl_val_t a, tpl_val_t b);
int tpl_compare(tpl_ctx_t *c, int op, tpl_val_t a, tpl_val_t b);
tpl_val_t tpl_attr(tpl_ctx_t *c, tpl_val_t o, tpl_val_t name);
tpl_val_t tpl_item(tpl_ctx_t *c, tpl_val_t o, tpl_val_t key);
tpl_val_t tpl_slice(tpl_ctx_t *c, tpl_val_t o, tpl_val_t from, tpl_val_t to,
    tpl_val_t step);
tpl_val_t tpl_path(tpl_ctx_t *c, tpl_val_t o, tpl_val_t path);

/* template_eval.c */
void tpl_run(tpl_ctx_t *c, const infer_template_t *tpl);
tpl_val_t tpl_call(tpl_ctx_t *c, tpl_val_t f, const tpl_args_t *a);

/* template_func.c, template_method.c, template_filter.c, template_test.c */
const tpl_func_t *tpl_find(const tpl_func_t *table, tpl_val_t name);
extern const tpl_func_t tpl_functions[], tpl_filters[], tpl_tests[];
extern const tpl_func_t tpl_str_methods[], tpl_dict_methods[],
    tpl_list_methods[], tpl_loop_methods[], tpl_state_methods[];
const tpl_val_t *tpl_arg(const tpl_args_t *a, uint32_t i, const char *name);
int64_t tpl_arg_int(tpl_ctx_t *c, const tpl_args_t *a, uint32_t i,
    const char *name, int64_t dflt);
int tpl_arg_true(const tpl_args_t *a, uint32_t i, const char *name,
    int dflt);
tpl_val_t tpl_arg_need(tpl_ctx_t *c, const tpl_args_t *a, uint32_t i,
    const char *name);
void tpl_sort(tpl_ctx_t *c, tpl_val_t *keys, tpl_val_t *vals, uint32_t n,
    int reverse);
tpl_val_t tpl_fold(tpl_ctx_t *c, tpl_val_t v);
tpl_val_t tpl_map_case(tpl_ctx_t *c, tpl_val_t s, int upper);
tpl_val_t tpl_capitalize(tpl_ctx_t *c, tpl_val_t s);
tpl_val_t tpl_strip(tpl_ctx_t *c, tpl_val_t s, const tpl_val_t *chars,
    int sides);
tpl_val_t tpl_replace(tpl_ctx_t *c, tpl_val_t s, tpl_val_t from,
    tpl_val_t to, int64_t count);
tpl_val_t tpl_lines(tpl_ctx_t *c, tpl_val_t s);
tpl_val_t tpl_join(tpl_ctx_t *c, tpl_val_t sep, tpl_val_t list);

#endif
