/*
 * api_chat.c: messages -> prompt, through the model's chat template. The
 * template sees copies in a normal form: content is a string, `developer` is
 * `system`, and a role is one of ours.
 */

#include "text/api_int.h"

/* Put behind the last message when that shall be continued; the prompt ends
 * where it comes out. */
#define CHAT_MARK  "\xef\xb7\x90" "continue" "\xef\xb7\x91"


/* JSON -> a new string with all text parts, separated by newlines. */
static int
chat_parts(api_ctx_t *c, size_t at, const json_t *parts, json_t **out)
{
    int           rc = INFER_OK;
    char          param[64];
    const char   *type;
    json_t       *part, *text;
    infer_buf_t   b = { 0 };

    for (size_t i = 0; i < json_array_size(parts) && rc == INFER_OK; i++) {
        part = json_array_get(parts, i);
        type = json_string_value(json_object_get(part, "type"));
        text = json_object_get(part, "text");
        (void) snprintf(param, sizeof(param), "messages[%zu].content[%zu]",
                        at, i);

        if (type == NULL) {
            rc = api_invalid(c, param, "'%s' must be an object with a "
                             "'type'.", param);

        } else if (strcmp(type, "text") != 0) {
            rc = api_unsupported(c, param, "'%s' is of type \"%.64s\"; only "
                                 "\"text\" is supported.", param, type);

        } else if (!json_is_string(text)) {
            rc = api_invalid(c, param, "'%s.text' must be a string.", param);

        } else {
            infer_buf_put(&b, "\n", i > 0);
            infer_buf_put(&b, json_string_value(text),
                          json_string_length(text));
        }
    }

    if (rc == INFER_OK) {
        *out = json_stringn_nocheck(b.data ? b.data : "", b.len);
        rc = infer_buf_rc(&b) == INFER_OK && *out ? INFER_OK : api_nomem(c);
    }

    infer_buf_free(&b);

    return rc;
}


/* A new string, whatever form the content has. */
static int
chat_content(api_ctx_t *c, size_t at, const char *role, json_t *message,
    json_t **out)
{
    char     param[64];
    json_t  *v = json_object_get(message, "content");

    (void) snprintf(param, sizeof(param), "messages[%zu].content", at);

    if (json_is_array(v)) {
        return chat_parts(c, at, v, out);
    }

    if (json_is_string(v)) {
        *out = json_incref(v);
        return INFER_OK;
    }

    if ((v == NULL || json_is_null(v)) && strcmp(role, "assistant") == 0) {
        *out = json_string("");
        return *out ? INFER_OK : api_nomem(c);
    }

    if (v == NULL) {
        return api_invalid(c, param, "'%s' is missing.", param);
    }

    return api_invalid(c, param, "'%s' must be a string or an array of text "
                       "parts.", param);
}


/* The role as the template knows it, or NULL. */
static const char *
chat_role(const char *role)
{
    static const char *const  roles[] = { "system", "user", "assistant",
                                          "tool" };

    if (role != NULL && strcmp(role, "developer") == 0) {
        return "system";
    }

    for (size_t i = 0; role && i < sizeof(roles) / sizeof(roles[0]); i++) {
        if (strcmp(role, roles[i]) == 0) {
            return roles[i];
        }
    }

    return NULL;
}


static int
chat_message(api_ctx_t *c, size_t at, json_t *message, json_t *list)
{
    int          rc;
    char         param[64];
    json_t      *copy, *content = NULL, *v;
    const char  *role;

    (void) snprintf(param, sizeof(param), "messages[%zu]", at);

    if (!json_is_object(message)) {
        return api_invalid(c, param, "'%s' must be an object.", param);
    }

    (void) snprintf(param, sizeof(param), "messages[%zu].role", at);
    v = json_object_get(message, "role");
    role = chat_role(json_string_value(v));

    if (role == NULL) {
        return api_invalid(c, param, "'%s' must be \"system\", "
                           "\"developer\", \"user\", \"assistant\" or "
                           "\"tool\".", param);
    }

    rc = chat_content(c, at, role, message, &content);

    if (rc != INFER_OK) {
        return rc;
    }

    copy = json_copy(message);

    /* the two _new functions take the reference, also when they fail */
    if (json_object_set_new(copy, "content", content) != 0
        || json_object_set_new(copy, "role", json_string(role)) != 0)
    {
        json_decref(copy);
        return api_nomem(c);
    }

    return json_array_append_new(list, copy) == 0 ? INFER_OK : api_nomem(c);
}


static int
chat_has_system(const json_t *list)
{
    json_t *role;

    for (size_t i = 0; i < json_array_size(list); i++) {
        role = json_object_get(json_array_get(list, i), "role");

        if (strcmp(json_string_value(role), "system") == 0) {
            return 1;
        }
    }

    return 0;
}


static int
chat_default_system(api_ctx_t *c, json_t *list)
{
    const infer_str_t  *s = &c->conf->system;
    json_t             *m;

    if (s->len == 0 || chat_has_system(list)) {
        return INFER_OK;
    }

    if (!infer_utf8_valid(s->data, s->len)) {
        infer_api_error_status(c->error, 500,
                               "The location's system message is not UTF-8.");
        return INFER_INVALID;
    }

    m = json_pack("{s:s, s:o}", "role", "system", "content",
                  json_stringn_nocheck(s->data, s->len));

    if (m == NULL || json_array_insert_new(list, 0, m) != 0) {
        return api_nomem(c);
    }

    return INFER_OK;
}


static int
chat_messages(api_ctx_t *c, json_t **out)
{
    json_t  *v = api_get(c, "messages"), *list;
    int      rc = INFER_OK;

    if (v == NULL) {
        return api_invalid(c, "messages", "'messages' is missing.");
    }

    if (!json_is_array(v)) {
        return api_invalid(c, "messages", "'messages' must be an array.");
    }

    if (json_array_size(v) == 0) {
        return api_invalid(c, "messages", "'messages' is empty.");
    }

    list = json_array();

    if (list == NULL) {
        return api_nomem(c);
    }

    for (size_t i = 0; i < json_array_size(v) && rc == INFER_OK; i++) {
        rc = chat_message(c, i, json_array_get(v, i), list);
    }

    if (rc == INFER_OK) {
        rc = chat_default_system(c, list);
    }

    if (rc != INFER_OK) {
        json_decref(list);
        return rc;
    }

    *out = list;

    return INFER_OK;
}


/* Appends the mark to the last message. */
static int
chat_mark(api_ctx_t *c, json_t *list)
{
    json_t       *last, *content;
    infer_buf_t   b = { 0 };

    last = json_array_get(list, json_array_size(list) - 1);

    if (strcmp(json_string_value(json_object_get(last, "role")),
               "assistant") != 0)
    {
        return api_invalid(c, "continue_final_message",
                           "'continue_final_message' needs a last message "
                           "of the assistant.");
    }

    content = json_object_get(last, "content");
    infer_buf_put(&b, json_string_value(content), json_string_length(content));
    infer_buf_str(&b, CHAT_MARK);

    content = infer_buf_rc(&b) == INFER_OK
              ? json_stringn_nocheck(b.data, b.len) : NULL;
    infer_buf_free(&b);

    return json_object_set_new(last, "content", content) == 0
           ? INFER_OK : api_nomem(c);
}


/* Cuts the prompt at the last mark. */
static int
chat_cut(api_ctx_t *c, infer_rendered_t *prompt)
{
    size_t n = strlen(CHAT_MARK);

    for (size_t i = prompt->len; i >= n; i--) {
        if (memcmp(prompt->text + i - n, CHAT_MARK, n) == 0) {
            prompt->len = i - n;
            prompt->text[prompt->len] = '\0';
            return INFER_OK;
        }
    }

    return api_invalid(c, "continue_final_message", "The model's chat "
                       "template does not show the last message, so it "
                       "cannot be continued.");
}


static json_t *
chat_token(const infer_text_t *text, int32_t id)
{
    size_t       len;
    const char  *s;

    if (id < 0) {
        return json_string("");
    }

    s = infer_text_piece(text, id, 1, &len);

    return infer_utf8_valid(s, len) ? json_stringn_nocheck(s, len)
                                    : json_string("");
}


/* The template's variables. Takes list. */
static int
chat_vars(api_ctx_t *c, json_t *list, int add_prompt, json_t **out)
{
    json_t  *kwargs = api_get(c, "chat_template_kwargs"), *vars;

    if (kwargs != NULL && !json_is_object(kwargs)) {
        json_decref(list);
        return api_invalid(c, "chat_template_kwargs",
                           "'chat_template_kwargs' must be an object.");
    }

    vars = kwargs ? json_copy(kwargs) : json_object();

    if (json_object_set_new(vars, "messages", list) != 0
        || json_object_set_new(vars, "add_generation_prompt",
                               json_boolean(add_prompt)) != 0
        || json_object_set_new(vars, "bos_token",
               chat_token(c->text, infer_text_bos(c->text))) != 0
        || json_object_set_new(vars, "eos_token",
               chat_token(c->text, infer_text_eos(c->text))) != 0
        || json_object_set_new(vars, "tools", json_null()) != 0)
    {
        json_decref(vars);
        return api_nomem(c);
    }

    *out = vars;

    return INFER_OK;
}


static int
chat_render(api_ctx_t *c, json_t *vars, infer_rendered_t *prompt)
{
    int                      rc;
    infer_err_t              err = { 0 };
    const infer_template_t  *tpl = infer_text_template(c->text);

    rc = infer_template_render(tpl, vars, NULL, c->conf->now, prompt, &err);

    if (rc == INFER_OK) {
        return INFER_OK;
    }

    if (rc == INFER_NOMEM) {
        return api_nomem(c);
    }

    return api_invalid(c, "messages", "The model's chat template refused "
                       "this: %.400s.", err.text);
}


/* add_generation_prompt and continue_final_message; they exclude another. */
static int
chat_ending(api_ctx_t *c, int *add_prompt, int *go_on)
{
    int rc = api_bool(c, "continue_final_message", go_on);

    *add_prompt = !*go_on;

    if (rc == INFER_OK) {
        rc = api_bool(c, "add_generation_prompt", add_prompt);
    }

    if (rc == INFER_OK && *add_prompt && *go_on) {
        rc = api_invalid(c, "continue_final_message",
                         "'continue_final_message' and "
                         "'add_generation_prompt' cannot both be true.");
    }

    return rc;
}


int
api_chat_prompt(api_ctx_t *c, infer_rendered_t *prompt)
{
    int      add_prompt = 1, go_on = 0, rc;
    json_t  *list = NULL, *vars = NULL;

    if (infer_text_template(c->text) == NULL) {
        (void) api_unsupported(c, "", "This model has no chat template, so "
                               "it cannot chat; give it one with "
                               "\"chat_template FILE;\" in its infer_model "
                               "block, or use completions.");
        c->error->code = "no_chat_template";

        return INFER_UNSUPPORTED;
    }

    rc = chat_ending(c, &add_prompt, &go_on);

    if (rc == INFER_OK) {
        rc = chat_messages(c, &list);
    }

    if (rc != INFER_OK) {
        return rc;
    }

    rc = go_on ? chat_mark(c, list) : INFER_OK;

    if (rc != INFER_OK) {
        json_decref(list);
        return rc;
    }

    rc = chat_vars(c, list, add_prompt, &vars);

    if (rc == INFER_OK) {
        rc = chat_render(c, vars, prompt);
        json_decref(vars);
    }

    if (rc == INFER_OK && go_on) {
        rc = chat_cut(c, prompt);

        if (rc != INFER_OK) {
            infer_rendered_free(prompt);
        }
    }

    return rc;
}
