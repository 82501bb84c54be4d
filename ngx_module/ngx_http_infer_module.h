
/*
 * What the files of ngx_module/ share: configuration, the bus as nginx's
 * processes see it, and who calls whom.
 *
 *   module.c      command table, merging, variables
 *   conf.c        zones and engines, and how models find them
 *   conf_model.c  infer_model {}
 *   conf_loc.c    directives of a location that have a form of their own
 *   zone.c        the bus over cycles: kept, replaced, entered by workers
 *   bus.c         making a bus: checks, sizes, descriptors
 *   engine.c      the life of an engine: woken, watched, replaced
 *   spawn.c       its process, and a model's check; fork and exec
 *   auth.c        infer_api_keys
 *   cache*.c, purge.c, redis*.c
 *                 the response cache and its second tier
 *   handler.c, request.c, submit.c, event.c, answer.c, output.c, health.c,
 *   metrics.c, filter.c
 *                 requests
 */


#ifndef _NGX_HTTP_INFER_MODULE_H_INCLUDED_
#define _NGX_HTTP_INFER_MODULE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "infer.h"
#include "ipc/bus.h"
#include "ipc/spawn.h"
#include "text/text.h"
#include "ngx_http_infer_cache.h"


#define NGX_HTTP_INFER_NO_ENTRY           ((ngx_uint_t) -1)

/* infer_endpoints; names as in the directive; 1 is NGX_CONF_BITMASK_SET */

#define NGX_HTTP_INFER_EP_CHAT            0x0002  /* chat/completions */
#define NGX_HTTP_INFER_EP_COMPLETIONS     0x0004  /* completions */
#define NGX_HTTP_INFER_EP_MODELS          0x0008  /* models */
#define NGX_HTTP_INFER_EP_TOKENIZE        0x0010  /* tokenize */
#define NGX_HTTP_INFER_EP_DETOKENIZE      0x0020  /* detokenize */
#define NGX_HTTP_INFER_EP_TEMPLATE        0x0040  /* apply-template */
#define NGX_HTTP_INFER_EP_HEALTH          0x0080  /* health/live, .../ready */
#define NGX_HTTP_INFER_EP_METRICS         0x0100  /* metrics */
#define NGX_HTTP_INFER_EP_ALL             0x01fe

/* infer_sampling: which keys a location has set */

#define NGX_HTTP_INFER_SET_TEMPERATURE    0x0001
#define NGX_HTTP_INFER_SET_TOP_P          0x0002
#define NGX_HTTP_INFER_SET_MIN_P          0x0004
#define NGX_HTTP_INFER_SET_TOP_K          0x0008
#define NGX_HTTP_INFER_SET_REPETITION     0x0010
#define NGX_HTTP_INFER_SET_PRESENCE       0x0020
#define NGX_HTTP_INFER_SET_FREQUENCY      0x0040
#define NGX_HTTP_INFER_SET_SEED           0x0080
#define NGX_HTTP_INFER_SET_MAX_N          0x0100


typedef struct ngx_http_infer_bus_s    ngx_http_infer_bus_t;
typedef struct ngx_http_infer_zone_s   ngx_http_infer_zone_t;
typedef struct ngx_http_infer_keys_s   ngx_http_infer_keys_t;   /* auth.c */
typedef struct ngx_http_infer_watch_s  ngx_http_infer_watch_t;  /* event.c */


/* a directive keeps its place, since it is judged after the parser is gone */

typedef struct {
    ngx_str_t                   file;
    ngx_uint_t                  line;
} ngx_http_infer_place_t;


/* infer_engine */

typedef struct {
    ngx_str_t                   name;           /* of the zone */
    ngx_uint_t                  threads;        /* 0: all cpus */
    ngx_int_t                   nice;
    ngx_array_t                 cpus;           /* uint16_t */
    ngx_array_t                 env;            /* ngx_str_t, NAME[=VALUE] */
    ngx_str_t                   path;           /* empty: beside the module */
    ngx_str_t                   isa;
    ngx_msec_t                  hang;           /* 0: it is left alone */
    ngx_http_infer_place_t      place;
} ngx_http_infer_engine_conf_t;


#define NGX_HTTP_INFER_HANG     120000          /* hang= by default, ms */


/* infer_model {}: as written; 0 and empty are "not given" */

typedef struct {
    ngx_str_t                   name;
    ngx_array_t                 aliases;        /* ngx_str_t */
    ngx_str_t                   zone_name;
    ngx_str_t                   path;
    ngx_str_t                   chat_template;  /* file */
    ngx_str_t                   device;
    ngx_uint_t                  context;
    ngx_uint_t                  sequences;
    ngx_uint_t                  batch_tokens;
    ngx_msec_t                  step_time;
    off_t                       kv_bytes;
    ngx_uint_t                  kv_type;        /* of the kv_cache */
    ngx_uint_t                  precision;      /* KERN_PREC_* */
    ngx_uint_t                  gpu_permille;   /* of gpu_memory, or */
    off_t                       gpu_bytes;
    ngx_http_infer_place_t      place;
    ngx_http_infer_place_t      path_place;
    ngx_http_infer_place_t      template_place;

    ngx_http_infer_zone_t      *zone;
    ngx_uint_t                  index;          /* in the bus */
    u_char                      names[20];      /* digest of all its names */
} ngx_http_infer_model_t;


/* infer_zone; one bus and one engine. Lives in the cycle's pool */

struct ngx_http_infer_zone_s {
    ngx_str_t                   name;
    size_t                      size;           /* 0: computed */
    ngx_array_t                 models;         /* ngx_http_infer_model_t * */
    ngx_http_infer_engine_conf_t
                               *engine;         /* NULL: all by default */
    ngx_uint_t                  max_tokens;     /* the largest default */
    ngx_http_infer_place_t      place;
    ngx_shm_zone_t             *shm_zone;
    ngx_cycle_t                *cycle;

    ngx_http_infer_bus_t       *bus;            /* use ..._bus_enter() */
};


/* a model on the bus; sizes that the check found are in bus.model[index] */

typedef struct {
    int                         fd;             /* the model file */
    int                         image_fd;       /* the text image, sealed */
    size_t                      image_size;
    time_t                      created;        /* the file's mtime */
    u_char                      digest[20];     /* of it and the bus */

    void                       *image;          /* this process's */
    infer_text_t               *text;           /* this process's, or NULL */
} ngx_http_infer_bus_model_t;


/*
 * The bus. Made by the master (or the single process) with malloc, counted
 * by the zones of living cycles, inherited by fork. A worker fills in the
 * second part in its own copy of the object.
 */

struct ngx_http_infer_bus_s {
    infer_bus_t                 bus;
    ngx_uint_t                  refs;
    char                       *name;           /* NUL-terminated */
    u_char                      signature[20];  /* of what it was made from */
    int                         entry_fd[INFER_MAX_ENTRIES];    /* eventfd */
    int                         wake_fd;        /* the engine's eventfd */
    int                         lifeline[2];
    int                         control[2];     /* [0] ours, [1] engine's */
    int                         engine_fd;      /* the opened binary */
    char                      **env;
    ngx_http_infer_bus_model_t  models[INFER_MAX_MODELS];
    ngx_uint_t                  nmodels;

    /* this process's; set by ngx_http_infer_bus_enter() */

    ngx_pid_t                   pid;            /* whose it is */
    ngx_uint_t                  entry;
    ngx_event_t                 housekeeping;   /* engine.c, cancelable */
    ngx_connection_t           *engine;         /* a pidfd, or NULL */
    uint32_t                    engine_pid;     /* that it watches */
    ngx_msec_t                  hang;           /* its end after that, or 0 */
    ngx_msec_t                  hang_time;      /* its heart stands still */
    ngx_msec_t                  hang_seen;      /* the last tick */
    uint64_t                    hang_beat;
    ngx_http_infer_watch_t     *watch;          /* event.c */
    ngx_queue_t                 refreshes;      /* refresh.c */
    ngx_uint_t                  nrefreshes;
    ngx_msec_t                  refresh_pause;  /* none before that */
    uint64_t                    jobs;           /* in threads, ever; */
    _Atomic uint64_t            jobs_done;      /* of them, by the threads */
};


/* random bytes that a process has at hand, for request ids */

typedef struct {
    ngx_pid_t                   pid;            /* whose they are */
    size_t                      left;
    u_char                      data[4096];
} ngx_http_infer_random_t;


/* a second's digits, which many answers have in common */

typedef struct {
    time_t                      time;
    ngx_str_t                   text;           /* empty: none yet */
    char                        digits[INFER_ANSWER_DECIMAL];
} ngx_http_infer_now_t;


typedef struct {
    ngx_array_t                 zones;          /* ngx_http_infer_zone_t * */
    ngx_array_t                 models;         /* ngx_http_infer_model_t * */
    ngx_array_t                 engines;        /* ..._engine_conf_t */
    ngx_array_t                 caches;         /* ngx_http_infer_cache_t * */
    ngx_array_t                 redis;          /* ngx_http_infer_redis_t * */
    uint8_t                     secret[INFER_SEAL_SECRET];
    unsigned                    secret_set:1;   /* infer_cache_secret */
    ngx_uint_t                  max_tokens;     /* largest in a location */
    ngx_http_infer_random_t     random;
    ngx_http_infer_now_t        now;
} ngx_http_infer_main_conf_t;


typedef struct {
    ngx_http_complex_value_t   *infer;          /* NULL: not a location of us */
    ngx_http_infer_model_t     *model;          /* NULL: infer has variables */
    ngx_uint_t                  endpoints;
    ngx_thread_pool_t          *thread_pool;
    ngx_uint_t                  max_tokens;     /* when a request has none */
    ngx_uint_t                  max_tokens_cap; /* 0: none */
    ngx_uint_t                  queue_length;   /* 0: no limit */
    ngx_uint_t                  queue_tokens;   /* 0: no limit */
    ngx_msec_t                  queue_timeout;
    ngx_msec_t                  first_timeout;
    ngx_msec_t                  total_timeout;
    ngx_http_complex_value_t   *priority;       /* NULL: normal */
    ngx_uint_t                  sampling_set;   /* NGX_HTTP_INFER_SET_* */
    infer_sampling_t            sampling;       /* all fields have values */
    ngx_uint_t                  max_n;
    ngx_http_complex_value_t   *system;         /* NULL: none */
    ngx_http_infer_keys_t      *keys;           /* NULL: no key needed */
    ngx_http_complex_value_t   *prefix_scope;   /* NULL: by credentials */
    ngx_array_t                *cors;           /* ngx_str_t origins or NULL;
                                                 * "*" is any */
    ngx_msec_t                  ping;           /* 0: off */
    ngx_http_infer_cache_conf_t cache;
    ngx_http_infer_place_t      place;          /* of infer */
} ngx_http_infer_loc_conf_t;


/*
 * What variables say about a request. It is the first member of the request's
 * module context, however that goes on (handler.c).
 */

typedef struct {
    ngx_str_t                   model;          /* its name */
    ngx_str_t                   key;            /* the api key's name */
    ngx_str_t                   request_id;
    ngx_uint_t                  prompt_tokens;
    ngx_uint_t                  completion_tokens;
    uint64_t                    queue_us;
    uint64_t                    first_us;       /* submission to first token */
    ngx_str_t                   finish_reason;  /* empty: none yet */
    ngx_str_t                   cache_status;   /* empty: no cache here */
    u_char                      cache_key[INFER_STORE_KEY];
    unsigned                    has_prompt:1;   /* which of these are known */
    unsigned                    has_queue:1;
    unsigned                    has_first:1;
    unsigned                    has_cache_key:1;
} ngx_http_infer_info_t;


extern ngx_str_t     ngx_http_infer_kv_types[];
extern ngx_str_t     ngx_http_infer_precisions[];
extern ngx_module_t  ngx_http_infer_module;


/* conf.c, conf_model.c, conf_loc.c: setters of the command table */

char *ngx_http_infer_zone_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_infer_engine_directive(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_infer_model_block(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_infer_location(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_infer_thread_pool(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_infer_max_tokens(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_infer_queue(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_infer_timeout(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_infer_priority(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_infer_sampling(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_infer_api_keys(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_infer_cors(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);

/* conf_loc.c: of an infer_priority; DECLINED when it is none */

ngx_int_t ngx_http_infer_priority_value(ngx_str_t *value, int32_t *priority);

/* conf.c: an [emerg] record that ends as those of the parser do */

void ngx_cdecl ngx_http_infer_emerg(ngx_log_t *log,
    ngx_http_infer_place_t *place, ngx_err_t err, const char *fmt, ...);

/* conf.c: where a directive stands; whether a name is fit for a model or
 * zone (NGX_DECLINED: not) */

void ngx_http_infer_place(ngx_conf_t *cf, ngx_http_infer_place_t *place);
ngx_int_t ngx_http_infer_valid_name(ngx_str_t *name);

/* conf.c: gives models their zones, zones their engines, adds shm zones */

ngx_int_t ngx_http_infer_conf_finish(ngx_conf_t *cf,
    ngx_http_infer_main_conf_t *imcf);

/* conf.c: by name or alias; NULL when there is none */

ngx_http_infer_model_t *ngx_http_infer_find_model(
    ngx_http_infer_main_conf_t *imcf, ngx_str_t *name);

/* zone.c: the shm zone's callback and its undoing, the commit, the end of a
 * process */

ngx_int_t ngx_http_infer_zone_init(ngx_shm_zone_t *shm_zone, void *data);
void ngx_http_infer_zone_cleanup(void *data);
ngx_int_t ngx_http_infer_zone_commit(ngx_cycle_t *cycle);
ngx_int_t ngx_http_infer_zone_process(ngx_cycle_t *cycle);
void ngx_http_infer_zone_exit(ngx_cycle_t *cycle);

/*
 * zone.c: this process's way onto the bus of a zone: claims an entry, opens
 * text images, starts housekeeping, attaches the entry's eventfd. Done once,
 * then cheap. NULL: no entry is free or memory is short (503).
 */

ngx_http_infer_bus_t *ngx_http_infer_bus_enter(ngx_http_infer_zone_t *zone,
    ngx_log_t *log);

/* engine.c: wakes the engine, and sees to it that there is one */

void ngx_http_infer_engine_wake(ngx_http_infer_bus_t *bus);

/* engine.c: a living process holds the engine's lock and has loaded */

ngx_uint_t ngx_http_infer_engine_ready(ngx_http_infer_bus_t *bus);
ngx_uint_t ngx_http_infer_engine_alive(ngx_http_infer_bus_t *bus);

/* engine.c: for zone.c */

void ngx_http_infer_engine_housekeeping(ngx_event_t *ev);
void ngx_http_infer_engine_unwatch(ngx_http_infer_bus_t *bus);

/*
 * spawn.c. spawn: a new engine, which is there when it has taken its lock;
 * what fails is logged. open: its binary, NGX_HTTP_INFER_NO_FD after an error.
 * check: the answer of a child that has looked at a model.
 */

void ngx_http_infer_engine_spawn(ngx_http_infer_bus_t *bus, ngx_log_t *log);
int ngx_http_infer_engine_open(ngx_http_infer_zone_t *zone, ngx_log_t *log);
ngx_int_t ngx_http_infer_engine_check(int engine_fd, char *const *argv,
    char *const *env, const int *fds, ngx_core_conf_t *ccf, char *answer,
    size_t size, ngx_log_t *log);

/*
 * event.c: puts bus->entry_fd[bus->entry] into the event loop, and takes it
 * out again (exit of a worker). news: looks at the bitmap at once.
 */

ngx_int_t ngx_http_infer_event_attach(ngx_http_infer_bus_t *bus,
    ngx_log_t *log);
void ngx_http_infer_event_detach(ngx_http_infer_bus_t *bus);

/* auth.c: reads the file; NULL when it cannot, after having logged why */

ngx_http_infer_keys_t *ngx_http_infer_keys_read(ngx_conf_t *cf,
    ngx_str_t *file);

/* redis_purge.c: of a worker */

void ngx_http_infer_redis_process(ngx_http_infer_main_conf_t *imcf);

/* purge.c */

ngx_int_t ngx_http_infer_purge_handler(ngx_http_request_t *r);

/* handler.c, filter.c */

ngx_int_t ngx_http_infer_handler(ngx_http_request_t *r);
void ngx_http_infer_random(void *data, size_t len);
ngx_int_t ngx_http_infer_filter_init(ngx_conf_t *cf);


#endif /* _NGX_HTTP_INFER_MODULE_H_INCLUDED_ */
