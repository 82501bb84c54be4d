
/*
 * infer_redis {}, infer_cache_secret and infer_cache_lock. redis_zone.c makes
 * the thread pool and the zone of a block.
 */


#include "ngx_http_infer_module.h"

#include "cache/answer.h"
#include "ipc/hash.h"


#define NGX_HTTP_INFER_REDIS_PORT     6379
#define NGX_HTTP_INFER_REDIS_THREADS  64
#define NGX_HTTP_INFER_REDIS_FILE     4096    /* of a secret or password */

#define NGX_HTTP_INFER_REDIS_UNSET  ((uint32_t) -1)


static char *ngx_http_infer_redis_param(ngx_conf_t *cf, ngx_command_t *dummy,
    void *conf);
static char *ngx_http_infer_redis_server(ngx_conf_t *cf,
    ngx_http_infer_redis_t *redis, ngx_str_t *value);
static char *ngx_http_infer_redis_address(ngx_conf_t *cf,
    infer_redis_conf_t *conf, ngx_url_t *u, ngx_uint_t i);
static char *ngx_http_infer_redis_flag(ngx_str_t *value, uint32_t *flag);
static char *ngx_http_infer_redis_number(ngx_conf_t *cf, ngx_str_t *value,
    uint32_t *number, ngx_uint_t min, ngx_uint_t max);
static char *ngx_http_infer_redis_time(ngx_conf_t *cf, ngx_str_t *value,
    uint32_t *ms);
static char *ngx_http_infer_redis_text(ngx_str_t *value, char *text,
    size_t size);
static char *ngx_http_infer_redis_password(ngx_conf_t *cf,
    ngx_http_infer_redis_t *redis, ngx_str_t *value);
static ngx_int_t ngx_http_infer_redis_file(ngx_conf_t *cf, ngx_str_t *path,
    u_char *data, size_t *len);
static char *ngx_http_infer_redis_check(ngx_conf_t *cf,
    ngx_http_infer_redis_t *redis);
static ngx_http_infer_redis_t *ngx_http_infer_redis_find(ngx_conf_t *cf,
    ngx_str_t *name);


char *
ngx_http_infer_redis_block(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_infer_main_conf_t *imcf = conf;

    char                     *rv;
    ngx_str_t                *value;
    ngx_conf_t                save;
    infer_redis_conf_t       *rcf;
    ngx_http_infer_redis_t   *redis, **slot;

    value = cf->args->elts;

    if (ngx_http_infer_valid_name(&value[1]) != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid name \"%V\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (ngx_http_infer_redis_find(cf, &value[1]) != NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "infer_redis \"%V\" is duplicate", &value[1]);
        return NGX_CONF_ERROR;
    }

    redis = ngx_pcalloc(cf->pool, sizeof(ngx_http_infer_redis_t));
    slot = ngx_array_push(&imcf->redis);

    if (redis == NULL || slot == NULL) {
        return NGX_CONF_ERROR;
    }

    *slot = redis;
    redis->name = value[1];
    redis->secret = imcf->secret;
    redis->level = NGX_CONF_UNSET;

    rcf = &redis->conf;
    rcf->cluster = NGX_HTTP_INFER_REDIS_UNSET;
    rcf->database = NGX_HTTP_INFER_REDIS_UNSET;
    rcf->connections = NGX_HTTP_INFER_REDIS_UNSET;
    rcf->connect_ms = NGX_HTTP_INFER_REDIS_UNSET;
    rcf->command_ms = NGX_HTTP_INFER_REDIS_UNSET;
    rcf->failures = NGX_HTTP_INFER_REDIS_UNSET;
    rcf->retry_ms = NGX_HTTP_INFER_REDIS_UNSET;

    save = *cf;
    cf->handler = ngx_http_infer_redis_param;
    cf->handler_conf = (void *) redis;

    rv = ngx_conf_parse(cf, NULL);

    *cf = save;

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    rv = ngx_http_infer_redis_check(cf, redis);

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    if (ngx_http_infer_redis_pool(cf, redis) != NGX_OK
        || ngx_http_infer_redis_zone(cf, redis) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_infer_redis_param(ngx_conf_t *cf, ngx_command_t *dummy, void *conf)
{
    char                    *rv;
    ssize_t                  size;
    uint32_t                 level;
    ngx_str_t               *value, *name;
    infer_redis_conf_t      *rcf;
    ngx_http_infer_redis_t  *redis;

    redis = (ngx_http_infer_redis_t *) cf->handler_conf;
    rcf = &redis->conf;
    name = cf->args->elts;
    value = name + 1;

    if (cf->args->nelts != 2) {
        rv = "has an invalid number of arguments";

    } else if (ngx_strcmp(name->data, "server") == 0) {
        rv = ngx_http_infer_redis_server(cf, redis, value);

    } else if (ngx_strcmp(name->data, "cluster") == 0) {
        rv = ngx_http_infer_redis_flag(value, &rcf->cluster);

    } else if (ngx_strcmp(name->data, "database") == 0) {
        rv = ngx_http_infer_redis_number(cf, value, &rcf->database, 0, 65535);

    } else if (ngx_strcmp(name->data, "user") == 0) {
        rv = ngx_http_infer_redis_text(value, rcf->user, sizeof(rcf->user));

    } else if (ngx_strcmp(name->data, "password") == 0) {
        rv = ngx_http_infer_redis_text(value, rcf->password,
                                       sizeof(rcf->password));

    } else if (ngx_strcmp(name->data, "password_file") == 0) {
        rv = ngx_http_infer_redis_password(cf, redis, value);

    } else if (ngx_strcmp(name->data, "connect_timeout") == 0) {
        rv = ngx_http_infer_redis_time(cf, value, &rcf->connect_ms);

    } else if (ngx_strcmp(name->data, "timeout") == 0) {
        rv = ngx_http_infer_redis_time(cf, value, &rcf->command_ms);

    } else if (ngx_strcmp(name->data, "connections") == 0) {
        rv = ngx_http_infer_redis_number(cf, value, &rcf->connections, 1,
                                         NGX_HTTP_INFER_REDIS_THREADS);

    } else if (ngx_strcmp(name->data, "max_fails") == 0) {
        rv = ngx_http_infer_redis_number(cf, value, &rcf->failures, 0, 1000);

    } else if (ngx_strcmp(name->data, "fail_timeout") == 0) {
        rv = ngx_http_infer_redis_time(cf, value, &rcf->retry_ms);

    } else if (ngx_strcmp(name->data, "max_value") == 0) {

        size = ngx_parse_size(value);
        rv = rcf->max_value ? "is duplicate"
                            : size < 1024 || size > INFER_ANSWER_MAX
                              ? "must be from 1k to 16m" : NGX_CONF_OK;
        rcf->max_value = (size_t) size;

    } else if (ngx_strcmp(name->data, "compress") == 0) {

        level = (redis->level == NGX_CONF_UNSET) ? NGX_HTTP_INFER_REDIS_UNSET
                                                 : (uint32_t) redis->level;
        rv = ngx_http_infer_redis_number(cf, value, &level, 0, 19);
        redis->level = level;

    } else {
        rv = "is unknown in \"infer_redis\"";
    }

    if (rv == NGX_CONF_OK || rv == NGX_CONF_ERROR) {
        return rv;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\" %s", name, rv);

    return NGX_CONF_ERROR;
}


/* Names are resolved now, as those of an upstream are. */

static char *
ngx_http_infer_redis_server(ngx_conf_t *cf, ngx_http_infer_redis_t *redis,
    ngx_str_t *value)
{
    char        *rv;
    ngx_url_t    u;
    ngx_uint_t   i;

    ngx_memzero(&u, sizeof(ngx_url_t));
    u.url = *value;
    u.default_port = NGX_HTTP_INFER_REDIS_PORT;

    if (ngx_parse_url(cf->pool, &u) != NGX_OK || u.uri.len) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "%s in \"server\" \"%V\" of infer_redis \"%V\"",
                           u.err ? u.err : "invalid address", value,
                           &redis->name);
        return NGX_CONF_ERROR;
    }

    for (i = 0; i < u.naddrs; i++) {
        rv = ngx_http_infer_redis_address(cf, &redis->conf, &u, i);

        if (rv != NGX_CONF_OK) {
            return rv;
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_infer_redis_address(ngx_conf_t *cf, infer_redis_conf_t *conf,
    ngx_url_t *u, ngx_uint_t i)
{
    u_char              *host;
    size_t               len;
    struct sockaddr     *sa;
    infer_redis_addr_t  *addr;

    if (conf->n_servers == INFER_REDIS_SERVERS) {
        return "are too many, 16 addresses at most";
    }

    addr = &conf->server[conf->n_servers];
    sa = u->addrs[i].sockaddr;

    if (sa->sa_family == AF_UNIX) {
        host = u->host.data;
        len = u->host.len;
        addr->port = 0;

    } else {
        host = ngx_pnalloc(cf->pool, NGX_SOCKADDR_STRLEN);
        if (host == NULL) {
            return NGX_CONF_ERROR;
        }

        len = ngx_sock_ntop(sa, u->addrs[i].socklen, host,
                            NGX_SOCKADDR_STRLEN, 0);
        addr->port = (uint16_t) ngx_inet_get_port(sa);

        /* "[::1]" is nginx's way to write it, not getaddrinfo()'s */

        if (len > 2 && host[0] == '[' && host[len - 1] == ']') {
            host++;
            len -= 2;
        }
    }

    if (len >= sizeof(addr->host)) {
        return "has a name that is too long";
    }

    ngx_memcpy(addr->host, host, len);
    addr->host[len] = '\0';
    conf->n_servers++;

    return NGX_CONF_OK;
}


static char *
ngx_http_infer_redis_flag(ngx_str_t *value, uint32_t *flag)
{
    if (*flag != NGX_HTTP_INFER_REDIS_UNSET) {
        return "is duplicate";
    }

    if (ngx_strcmp(value->data, "on") == 0) {
        *flag = 1;

    } else if (ngx_strcmp(value->data, "off") == 0) {
        *flag = 0;

    } else {
        return "must be \"on\" or \"off\"";
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_infer_redis_number(ngx_conf_t *cf, ngx_str_t *value,
    uint32_t *number, ngx_uint_t min, ngx_uint_t max)
{
    ngx_int_t  n;

    if (*number != NGX_HTTP_INFER_REDIS_UNSET) {
        return "is duplicate";
    }

    n = ngx_atoi(value->data, value->len);

    if (n < (ngx_int_t) min || n > (ngx_int_t) max) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"%V\" value \"%V\", it must be between "
                           "%ui and %ui", value - 1, value, min, max);
        return NGX_CONF_ERROR;
    }

    *number = (uint32_t) n;

    return NGX_CONF_OK;
}


static char *
ngx_http_infer_redis_time(ngx_conf_t *cf, ngx_str_t *value, uint32_t *ms)
{
    ngx_int_t  t;

    if (*ms != NGX_HTTP_INFER_REDIS_UNSET) {
        return "is duplicate";
    }

    t = ngx_parse_time(value, 0);

    /* a worker that exits waits for its jobs */

    if (t < 1 || t > 60000) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"%V\" value \"%V\", it must be between "
                           "1ms and 60s", value - 1, value);
        return NGX_CONF_ERROR;
    }

    *ms = (uint32_t) t;

    return NGX_CONF_OK;
}


static char *
ngx_http_infer_redis_text(ngx_str_t *value, char *text, size_t size)
{
    if (text[0]) {
        return "is duplicate";
    }

    if (value->len == 0) {
        return "has an empty value";
    }

    if (value->len >= size) {
        return "has a value that is too long";
    }

    ngx_memcpy(text, value->data, value->len);
    text[value->len] = '\0';

    return NGX_CONF_OK;
}


/* the file's first line */

static char *
ngx_http_infer_redis_password(ngx_conf_t *cf, ngx_http_infer_redis_t *redis,
    ngx_str_t *value)
{
    char       *rv;
    size_t      len;
    u_char      data[NGX_HTTP_INFER_REDIS_FILE], *end;
    ngx_str_t   line;

    if (redis->password_file.len) {
        return "is duplicate";
    }

    redis->password_file = *value;

    if (ngx_http_infer_redis_file(cf, &redis->password_file, data, &len)
        != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    end = ngx_strlchr(data, data + len, '\n');

    line.data = data;
    line.len = (end ? end : data + len) - data;

    if (line.len && line.data[line.len - 1] == '\r') {
        line.len--;
    }

    rv = ngx_http_infer_redis_text(&line, redis->conf.password,
                                   sizeof(redis->conf.password));

    if (rv == NGX_CONF_OK) {
        return rv;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       redis->conf.password[0]
                       ? "\"password\" and \"password_file\" exclude each "
                         "other (\"%V\")"
                       : "\"password_file\" \"%V\" has no password of at "
                         "most 255 bytes in its first line",
                       &redis->password_file);

    return NGX_CONF_ERROR;
}


/* len: out. A secret that others may read is a warning. */

static ngx_int_t
ngx_http_infer_redis_file(ngx_conf_t *cf, ngx_str_t *path, u_char *data,
    size_t *len)
{
    ssize_t          n;
    ngx_fd_t         fd;
    ngx_int_t        rc;
    ngx_file_info_t  fi;

    if (ngx_conf_full_name(cf->cycle, path, 1) != NGX_OK) {
        return NGX_ERROR;
    }

    fd = ngx_open_file(path->data, NGX_FILE_RDONLY|NGX_FILE_NONBLOCK,
                       NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_open_file_n " \"%V\" failed", path);
        return NGX_ERROR;
    }

    rc = NGX_ERROR;

    if (ngx_fd_info(fd, &fi) == NGX_FILE_ERROR || !ngx_is_file(&fi)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\" is not a file",
                           path);
        goto done;
    }

    if (fi.st_mode & S_IROTH) {
        ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                           "\"%V\" holds a secret and can be read by "
                           "everybody", path);
    }

    n = ngx_read_fd(fd, data, NGX_HTTP_INFER_REDIS_FILE);

    if (n == -1) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_read_fd_n " \"%V\" failed", path);
        goto done;
    }

    *len = (size_t) n;
    rc = NGX_OK;

done:

    if (ngx_close_file(fd) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_ALERT, cf, ngx_errno,
                           ngx_close_file_n " \"%V\" failed", path);
    }

    return rc;
}


/* The block is complete: defaults, and what does not go together. */

static char *
ngx_http_infer_redis_check(ngx_conf_t *cf, ngx_http_infer_redis_t *redis)
{
    char                *err;
    infer_redis_conf_t  *rcf;

    rcf = &redis->conf;
    err = NULL;

#define ngx_http_infer_redis_default(field, value)                            \
    if (rcf->field == NGX_HTTP_INFER_REDIS_UNSET) {                           \
        rcf->field = value;                                                   \
    }

    if (rcf->n_servers == 0) {
        err = "has no \"server\"";

    } else if (rcf->cluster == 1
               && rcf->database != NGX_HTTP_INFER_REDIS_UNSET)
    {
        err = "has a \"database\", which a cluster does not";

    } else if (rcf->user[0] && rcf->password[0] == '\0') {
        err = "has a \"user\" without a password";
    }

    if (err) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "infer_redis \"%V\" %s",
                           &redis->name, err);
        return NGX_CONF_ERROR;
    }

    ngx_http_infer_redis_default(cluster, 0);
    ngx_http_infer_redis_default(database, 0);
    ngx_http_infer_redis_default(connections, 4);
    ngx_http_infer_redis_default(connect_ms, 200);
    ngx_http_infer_redis_default(command_ms, 100);
    ngx_http_infer_redis_default(failures, 3);
    ngx_http_infer_redis_default(retry_ms, 5000);

#undef ngx_http_infer_redis_default

    if (rcf->max_value == 0) {
        rcf->max_value = 1024 * 1024;
    }

    if (redis->level == NGX_CONF_UNSET) {
        redis->level = 0;
    }

    return NGX_CONF_OK;
}


static ngx_http_infer_redis_t *
ngx_http_infer_redis_find(ngx_conf_t *cf, ngx_str_t *name)
{
    ngx_uint_t                    i;
    ngx_http_infer_redis_t      **redis;
    ngx_http_infer_main_conf_t   *imcf;

    imcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_infer_module);
    redis = imcf->redis.elts;

    for (i = 0; i < imcf->redis.nelts; i++) {
        if (redis[i]->name.len == name->len
            && ngx_strncmp(redis[i]->name.data, name->data, name->len) == 0)
        {
            return redis[i];
        }
    }

    return NULL;
}


ngx_http_infer_redis_t *
ngx_http_infer_redis_use(ngx_conf_t *cf, ngx_str_t *name)
{
    ngx_http_infer_redis_t  *redis;

    redis = ngx_http_infer_redis_find(cf, name);

    if (redis == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "unknown infer_redis \"%V\", it must be defined "
                           "before it is used", name);
        return NULL;
    }

    if (!redis->used) {
        redis->used = 1;
        redis->file = cf->conf_file->file.name;
        redis->line = cf->conf_file->line;
    }

    return redis;
}


/* infer_cache_secret FILE */

char *
ngx_http_infer_cache_secret(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_infer_main_conf_t *imcf = conf;

    size_t      len;
    u_char      data[NGX_HTTP_INFER_REDIS_FILE];
    ngx_str_t  *value;

    value = cf->args->elts;

    if (imcf->secret_set) {
        return "is duplicate";
    }

    if (ngx_http_infer_redis_file(cf, &value[1], data, &len) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (infer_seal_secret(data, len, imcf->secret) != INFER_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"infer_cache_secret\" \"%V\" has only %uz bytes, "
                           "%d are needed at least", &value[1], len,
                           INFER_SEAL_LEAST);
        return NGX_CONF_ERROR;
    }

    imcf->secret_set = 1;

    return NGX_CONF_OK;
}


/* infer_cache_lock on|off [timeout=TIME] */

char *
ngx_http_infer_cache_lock(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_infer_loc_conf_t *ilcf = conf;

    ngx_str_t   *value, s;
    ngx_msec_t   ms;

    value = cf->args->elts;
    ms = 5000;

    if (ilcf->cache.lock_ms != NGX_CONF_UNSET_MSEC) {
        return "is duplicate";
    }

    if (cf->args->nelts == 3) {

        ms = (ngx_msec_t) NGX_ERROR;

        if (ngx_strncmp(value[2].data, "timeout=", 8) == 0) {
            s.data = value[2].data + 8;
            s.len = value[2].len - 8;
            ms = ngx_parse_time(&s, 0);
        }

        if (ms == (ngx_msec_t) NGX_ERROR || ms == 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\"", &value[2]);
            return NGX_CONF_ERROR;
        }
    }

    if (ngx_strcmp(value[1].data, "on") == 0) {
        ilcf->cache.lock_ms = ms;

    } else if (ngx_strcmp(value[1].data, "off") == 0) {
        ilcf->cache.lock_ms = 0;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\" in \"infer_cache_lock\", it "
                           "must be \"on\" or \"off\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


/* All directives are known: a tier of values that nobody can check is none. */

ngx_int_t
ngx_http_infer_redis_finish(ngx_conf_t *cf, void *main)
{
    ngx_http_infer_main_conf_t *imcf = main;

    ngx_uint_t                i;
    ngx_http_infer_cache_t  **cache;
    ngx_http_infer_place_t    place;
    ngx_http_infer_redis_t  **redis;

    redis = imcf->redis.elts;
    cache = imcf->caches.elts;

    for (i = 0; i < imcf->redis.nelts; i++) {

        if (!redis[i]->used || imcf->secret_set) {
            continue;
        }

        place.file = redis[i]->file;
        place.line = redis[i]->line;

        ngx_http_infer_emerg(cf->log, &place, 0,
                             "\"redis=%V\" needs \"infer_cache_secret\": "
                             "without it anybody who writes to that Redis "
                             "could put answers into it", &redis[i]->name);
        return NGX_ERROR;
    }

    /* what a cache is called in Redis */

    for (i = 0; i < imcf->caches.nelts; i++) {

        if (cache[i]->redis) {
            infer_hash(imcf->secret, cache[i]->name.data, cache[i]->name.len,
                       cache[i]->redis_id);
        }
    }

    return NGX_OK;
}
