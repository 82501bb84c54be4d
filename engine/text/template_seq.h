/*
 * template_seq.h: the filters over sequences, for the table of filters in
 * template_filter.c; nobody else calls them.
 */

#ifndef INFER_TEXT_TEMPLATE_SEQ_H
#define INFER_TEXT_TEMPLATE_SEQ_H

#include "text/template_int.h"

tpl_val_t tpl_seq_length(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);
tpl_val_t tpl_seq_join(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);
tpl_val_t tpl_seq_first(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);
tpl_val_t tpl_seq_last(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);
tpl_val_t tpl_seq_list(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);
tpl_val_t tpl_seq_map(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);
tpl_val_t tpl_seq_select(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);
tpl_val_t tpl_seq_reject(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);
tpl_val_t tpl_seq_selectattr(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);
tpl_val_t tpl_seq_rejectattr(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);
tpl_val_t tpl_seq_reverse(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);
tpl_val_t tpl_seq_sort(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);
tpl_val_t tpl_seq_unique(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);
tpl_val_t tpl_seq_items(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);
tpl_val_t tpl_seq_dictsort(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);
tpl_val_t tpl_seq_min(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);
tpl_val_t tpl_seq_max(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);
tpl_val_t tpl_seq_sum(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);
tpl_val_t tpl_seq_batch(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);
tpl_val_t tpl_seq_slice(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);
tpl_val_t tpl_seq_groupby(tpl_ctx_t *c, tpl_val_t v, const tpl_args_t *a);

#endif
