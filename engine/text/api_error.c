/*
 * api_error.c: errors as the API says them. The one place that knows which
 * type and code belong to an HTTP status.
 */

#include "text/api.h"

typedef struct {
    int          status;
    const char  *type, *code, *message;
} api_status_t;

static const api_status_t  api_status[] = {
    { 400, "invalid_request_error", "bad_request",
      "The request is not valid." },
    { 401, "authentication_error", "invalid_api_key",
      "A valid API key is needed: send it as \"Authorization: Bearer KEY\"." },
    { 403, "permission_error", "permission_denied",
      "This is not allowed here." },
    { 404, "not_found_error", "not_found", "There is nothing at this path." },
    { 405, "invalid_request_error", "method_not_allowed",
      "This method is not allowed here." },
    { 408, "timeout_error", "request_timeout",
      "The request took too long to arrive." },
    { 413, "invalid_request_error", "request_too_large",
      "The request's body is too large." },
    { 414, "invalid_request_error", "uri_too_long", "The URI is too long." },
    { 415, "invalid_request_error", "unsupported_media_type",
      "The body must be application/json." },
    { 429, "rate_limit_error", "rate_limit_exceeded",
      "Too many requests, try again later." },
    { 499, "server_error", "client_closed_request",
      "The client closed the request." },
    { 500, "server_error", "internal_error", "The server failed." },
    { 501, "server_error", "not_implemented",
      "The server does not know this method or transfer encoding." },
    { 502, "server_error", "bad_gateway", "The server failed." },
    { 503, "unavailable_error", "unavailable",
      "The server cannot take this request now, try again later." },
    { 504, "timeout_error", "timeout", "The answer took too long." },
};


void
infer_api_error_status(infer_api_error_t *e, int status, const char *message)
{
    const api_status_t  *s = NULL;

    for (size_t i = 0; i < sizeof(api_status) / sizeof(api_status[0]); i++) {
        if (api_status[i].status == status) {
            s = &api_status[i];
        }
    }

    *e = (infer_api_error_t) { .status = status };
    e->type = s ? s->type
                : status < 500 ? "invalid_request_error" : "server_error";
    e->code = s ? s->code : NULL;

    if (message == NULL) {
        message = s ? s->message : "The request cannot be answered.";
    }

    (void) snprintf(e->message, sizeof(e->message), "%s", message);
}


void
infer_api_error_rc(infer_api_error_t *e, int rc, const char *message)
{
    int status = 500;

    switch (rc) {
    case INFER_BUSY:
    case INFER_AGAIN:
        status = 503;
        break;
    case INFER_INVALID:
    case INFER_UNSUPPORTED:
        status = 400;
        break;
    case INFER_CANCELLED:
        status = 499;
        break;
    default:
        break;
    }

    infer_api_error_status(e, status, message);

    if (rc == INFER_UNSUPPORTED) {
        e->code = "unsupported";
    } else if (rc == INFER_NOMEM) {
        e->code = "out_of_memory";
    }
}


void
infer_api_error_finish(infer_api_error_t *e, uint32_t finish,
    const char *message)
{
    switch (finish) {
    case INFER_FINISH_TIMEOUT_QUEUE:
        infer_api_error_status(e, 503, message ? message
                               : "The request waited too long for its turn.");
        e->code = "queue_timeout";
        break;
    case INFER_FINISH_TIMEOUT:
        infer_api_error_status(e, 504, message);
        break;
    case INFER_FINISH_CANCELLED:
        infer_api_error_status(e, 500, message ? message
                               : "The generation was cancelled.");
        e->code = "cancelled";
        break;
    default:
        infer_api_error_status(e, 500, message ? message
                               : "The generation failed.");
        break;
    }
}


const char *
infer_api_finish_name(uint32_t finish)
{
    switch (finish) {
    case INFER_FINISH_NONE:
        return "";
    case INFER_FINISH_STOP:
        return "stop";
    case INFER_FINISH_LENGTH:
        return "length";
    case INFER_FINISH_CANCELLED:
        return "cancelled";
    case INFER_FINISH_TIMEOUT_QUEUE:
    case INFER_FINISH_TIMEOUT:
        return "timeout";
    default:
        return "error";
    }
}


int
infer_api_render_error(infer_buf_t *out, const infer_api_error_t *e)
{
    infer_buf_str(out, "{\"error\":{\"message\":");
    infer_buf_quote(out, e->message, strlen(e->message));
    infer_buf_str(out, ",\"type\":");
    infer_buf_quote(out, e->type, strlen(e->type));
    infer_buf_str(out, ",\"param\":");

    if (e->param[0] != '\0') {
        infer_buf_quote(out, e->param, strlen(e->param));
    } else {
        infer_buf_str(out, "null");
    }

    infer_buf_str(out, ",\"code\":");

    if (e->code != NULL) {
        infer_buf_quote(out, e->code, strlen(e->code));
    } else {
        infer_buf_str(out, "null");
    }

    infer_buf_str(out, "}}");

    return infer_buf_rc(out);
}
