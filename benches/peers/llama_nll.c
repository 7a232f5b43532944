/* What llama.cpp makes of given tokens: the nll and the likeliest token at each position, as JSON on stdout.
 *
 *   llama_nll MODEL.gguf cpu|vulkan [--kv f32|f16] [--threads N] < IDS
 *
 * IDS are decimal numbers with anything between them. nll[i] = -ln p(ids[i + 1] | ids[..= i]); top[i] is the likeliest token
 * after ids[..= i], gap[i] how far its logit lies above the next one's; logits_last are the logits after the last.
 *
 * A program and not a binding, so that a header that changed is an error of the compiler, not a wrong number. The device is
 * asked for by name and is never replaced by another: with a GPU in sight llama.cpp would otherwise multiply large batches
 * there even with no layer on it. Sums are in double. Attention is the plain one and keys and values are f32 unless told
 * otherwise, so that what is left to differ from the truth is what each format makes it differ by.
 */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ggml-backend.h"
#include "llama.h"

enum { BATCH = 512 };

static void fail(const char * what) {
    fprintf(stderr, "llama_nll: %s\n", what);
    exit(2);
}

/* Errors only: the loader is talkative. */
static void log_errors(enum ggml_log_level level, const char * text, void * data) {
    (void) data;
    if (level == GGML_LOG_LEVEL_ERROR) {
        fputs(text, stderr);
    }
}

static ggml_backend_dev_t vulkan_device(void) {
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        if (strcmp(ggml_backend_reg_name(ggml_backend_dev_backend_reg(device)), "Vulkan") == 0) {
            return device;
        }
    }
    fail("no Vulkan device (a software one is seen with GGML_VK_VISIBLE_DEVICES=0)");
    return NULL;
}

static int read_ids(llama_token ** ids) {
    int count = 0, room = 0, c = getchar();
    while (c != EOF) {
        if (c < '0' || c > '9') {
            c = getchar();
            continue;
        }
        long id = 0;
        for (; c >= '0' && c <= '9'; c = getchar()) {
            id = id * 10 + (c - '0');
            if (id > INT32_MAX) {
                fail("a token id is out of range");
            }
        }
        if (count == room) {
            room = room ? 2 * room : 1024;
            *ids = realloc(*ids, (size_t) room * sizeof **ids);
            if (!*ids) {
                fail("out of memory");
            }
        }
        (*ids)[count++] = (llama_token) id;
    }
    return count;
}

static double nll_of(const float * logits, int vocab, llama_token id) {
    double most = logits[0], sum = 0;
    for (int i = 1; i < vocab; i++) {
        most = fmax(most, logits[i]);
    }
    for (int i = 0; i < vocab; i++) {
        sum += exp(logits[i] - most);
    }
    return most + log(sum) - logits[id];
}

static llama_token top_of(const float * logits, int vocab, double * gap) {
    llama_token top = 0;
    for (int i = 1; i < vocab; i++) {
        top = logits[i] > logits[top] ? i : top;
    }
    double next = -INFINITY;
    for (int i = 0; i < vocab; i++) {
        next = i != top && logits[i] > next ? logits[i] : next;
    }
    *gap = logits[top] - next;
    return top;
}

static void print_doubles(const char * name, const double * values, int count) {
    printf(",\n\"%s\": [", name);
    for (int i = 0; i < count; i++) {
        printf("%s%.8g", i ? "," : "", values[i]);
    }
    printf("]");
}

int main(int argc, char ** argv) {
    if (argc < 3 || argc % 2 == 0) {
        fail("usage: llama_nll MODEL.gguf cpu|vulkan [--kv f32|f16] [--threads N] < IDS");
    }
    const bool vulkan = strcmp(argv[2], "vulkan") == 0;
    if (!vulkan && strcmp(argv[2], "cpu") != 0) {
        fail("the device is cpu or vulkan");
    }
    enum ggml_type kv = GGML_TYPE_F32;
    int threads = 2;
    for (int i = 3; i < argc; i += 2) {
        if (strcmp(argv[i], "--kv") == 0) {
            kv = strcmp(argv[i + 1], "f16") == 0 ? GGML_TYPE_F16 : GGML_TYPE_F32;
        } else if (strcmp(argv[i], "--threads") == 0) {
            threads = atoi(argv[i + 1]);
        } else {
            fail("options are --kv and --threads");
        }
    }
    llama_token * ids = NULL;
    const int count = read_ids(&ids);
    if (count < 2) {
        fail("give at least two token ids on stdin");
    }

    llama_log_set(log_errors, NULL);
    llama_backend_init();
    ggml_backend_dev_t devices[2] = { vulkan ? vulkan_device() : NULL, NULL };
    struct llama_model_params of_model = llama_model_default_params();
    of_model.devices = devices;
    of_model.n_gpu_layers = vulkan ? 9999 : 0;
    struct llama_model * model = llama_model_load_from_file(argv[1], of_model);
    if (!model) {
        fail("the model does not load");
    }
    struct llama_context_params of_context = llama_context_default_params();
    of_context.n_ctx = (uint32_t) count;
    of_context.n_batch = BATCH;
    of_context.n_ubatch = BATCH;
    of_context.n_threads = threads;
    of_context.n_threads_batch = threads;
    of_context.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    of_context.type_k = kv;
    of_context.type_v = kv;
    of_context.offload_kqv = vulkan;
    of_context.op_offload = vulkan;
    struct llama_context * context = llama_init_from_model(model, of_context);
    if (!context) {
        fail("no context");
    }

    const int vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    for (int i = 0; i < count; i++) {
        if (ids[i] >= vocab) {
            fail("a token id is out of the vocabulary");
        }
    }
    double * nll = calloc((size_t) count, sizeof *nll);
    double * gap = calloc((size_t) count, sizeof *gap);
    double * last = calloc((size_t) vocab, sizeof *last);
    llama_token * top = calloc((size_t) count, sizeof *top);
    struct llama_batch batch = llama_batch_init(BATCH, 0, 1);
    if (!nll || !gap || !last || !top) {
        fail("out of memory");
    }
    for (int start = 0; start < count; start += BATCH) {
        batch.n_tokens = count - start < BATCH ? count - start : BATCH;
        for (int i = 0; i < batch.n_tokens; i++) {
            batch.token[i] = ids[start + i];
            batch.pos[i] = start + i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = true;
        }
        if (llama_decode(context, batch) != 0) {
            fail("decode failed");
        }
        for (int i = 0; i < batch.n_tokens; i++) {
            const float * logits = llama_get_logits_ith(context, i);
            if (!logits) {
                fail("no logits");
            }
            top[start + i] = top_of(logits, vocab, &gap[start + i]);
            if (start + i + 1 < count) {
                nll[start + i] = nll_of(logits, vocab, ids[start + i + 1]);
            }
            for (int j = 0; start + i + 1 == count && j < vocab; j++) {
                last[j] = logits[j];
            }
        }
    }

    printf("{\"device\": \"%s\"", vulkan ? ggml_backend_dev_description(devices[0]) : "CPU");
    print_doubles("nll", nll, count - 1);
    printf(",\n\"top\": [");
    for (int i = 0; i < count; i++) {
        printf("%s%d", i ? "," : "", top[i]);
    }
    printf("]");
    print_doubles("gap", gap, count);
    print_doubles("logits_last", last, vocab);
    printf("}\n");

    llama_batch_free(batch);
    llama_free(context);
    llama_model_free(model);
    llama_backend_free();
    return 0;
}
