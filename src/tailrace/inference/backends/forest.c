/* Forests that bit vectors do not fit: trees of any depth, of several outputs, and oblivious trees.
 *
 * A tree is walked from node to node, many walks at a time. A walk waits for memory at every step, so the walks of
 * several rows through several trees take turns, and one that arrives makes room for the next (forest_walk.h). A tree
 * that asks the same at every node of a level, as CatBoost's do, is a table instead: its answers are the bits of an
 * index, computed for 16 rows together (forest_oblivious.h).
 *
 *   N. Asadi, J. Lin, A. de Vries, "Runtime Optimizations for Tree-Based Machine Learning Models", IEEE TKDE 2014:
 *     walks that take turns, without branches, over nodes laid out in a row.
 *   A. Dorogush, V. Ershov, A. Gulin, "CatBoost: gradient boosting with categorical features support", 2018: the index
 *     of an oblivious tree, for many rows together.
 *   Walks that make room for the next, across trees as well, are ours: a handful of rows keeps all lanes busy.
 *
 * A test is `x <= threshold`: true goes left, and NaN, for which it is false, goes right. Where NaN goes left, the test
 * reads a slot of its own, in which NaN has become -inf. Slots are filled once a row, so no test looks for NaN.
 *
 * Leaves are added in the order of the trees, in float, as ONNX Runtime's single thread adds them. C99 with GCC's and
 * Clang's builtins; no Python in it, so the caller's thread need not hold the GIL.
 *
 * Bounds: nothing is checked here. The caller sees to it (tailrace.inference.backends.forest_tables) that columns,
 * slots, roots, targets and vectors are within their ranges, that a node's children come after it and within its tree,
 * and that an oblivious tree has 2^depth leaves.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LAYOUT 1 /* of the struct below; the caller's differs when the library was compiled from another version */
#define BLOCK 64 /* rows worked on together */
#define ITEMS 4096 /* walks, one for each row and tree, whose leaves are kept before they are added */
#define LANES 16

enum { OK = 0, OTHER_LAYOUT = 1, NO_MEMORY = 2 };
enum { PLAIN = 0, SIGMOID = 1, SOFTMAX = 2, EXPONENTIAL = 3 };

typedef struct {
    float value;   /* the threshold; of a leaf its value, or the bits of its vector's place */
    uint32_t next; /* how far ahead the left child is, above `bits` bits of slot; the right child follows it. 0: leaf */
} tailrace_node;

typedef struct {
    int64_t layout;
    int64_t features;         /* columns of a row */
    int64_t slots;
    int64_t trees;
    int64_t outputs;          /* scores of a row */
    int64_t link;
    int64_t bits;             /* of a slot within `next` */
    int64_t oblivious;        /* whether the trees are tables */
    const int32_t *columns;   /* (slots): the column that each is filled from */
    const float *missing;     /* (slots): what NaN becomes: NaN or -inf */
    const tailrace_node *nodes;
    const int32_t *starts;    /* (trees): a tree's root among the nodes; its first leaf among the vectors */
    const int32_t *targets;   /* (trees): the output of each; NULL where every leaf has a vector */
    const float *vectors;     /* (vectors, outputs) */
    const int32_t *depths;    /* (trees): the levels of each table */
    const int32_t *tests;     /* (tests): the slot of each level's test, tree after tree from the root down */
    const float *thresholds;  /* (tests) */
    const float *base;        /* (outputs): score = link(sum * scale + base), in float */
    double scale;
} tailrace_forest;

#ifdef TAILRACE_CLONES /* one copy for each kind of processor, chosen when the library is loaded */
#define CLONES __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

#if defined(TAILRACE_CLONES) && defined(__x86_64__)
#define WIDE __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,popcnt,bmi,bmi2")))
#include <immintrin.h>
static int has_wide(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}
#endif

#include "forest_walk.h"

#include "forest_oblivious.h"

/* Fill the slots of `count` rows: `row` floats from one row to the next, `slot` from one slot to the next. */
static void fill_slots(const tailrace_forest *forest, const float *rows, int64_t count, int64_t row, int64_t slot,
                       float *restrict filled)
{
    for (int64_t i = 0; i < count; i++) {
        const float *values = rows + i * forest->features;
        for (int64_t at = 0; at < forest->slots; at++) {
            const float value = values[forest->columns[at]];
            filled[i * row + at * slot] = value != value ? forest->missing[at] : value;
        }
    }
}

/* Turn the sums of a row into its scores. */
static void link_row(const tailrace_forest *forest, float *scores)
{
    const int64_t outputs = forest->outputs;
    float largest = -INFINITY, sum = 0;
    for (int64_t k = 0; k < outputs; k++) {
        scores[k] = scores[k] * (float)forest->scale + forest->base[k];
        largest = scores[k] > largest ? scores[k] : largest;
    }
    for (int64_t k = 0; k < outputs; k++) {
        if (forest->link == SIGMOID)
            scores[k] = 1.0f / (1.0f + expf(-scores[k]));
        else if (forest->link == EXPONENTIAL)
            scores[k] = expf(scores[k]);
        else if (forest->link == SOFTMAX)
            sum += scores[k] = expf(scores[k] - largest);
    }
    if (forest->link == SOFTMAX)
        for (int64_t k = 0; k < outputs; k++)
            scores[k] /= sum;
}

/* Score `count` rows of `features` floats each, one after the other, into `scores`, (count, outputs). Returns OK, or
 * why it did not. */
__attribute__((visibility("default")))
int tailrace_score(const tailrace_forest *forest, const float *rows, int64_t count, float *scores)
{
    if (forest->layout != LAYOUT)
        return OTHER_LAYOUT;
    const size_t floats = (size_t)(forest->slots * (forest->oblivious ? LANES : count < BLOCK ? count : BLOCK));
    void *memory = malloc(64 + floats * sizeof(float) + (forest->oblivious ? 0 : sizeof(walks)));
    if (memory == NULL)
        return NO_MEMORY;
    float *filled = (float *)(((uintptr_t)memory + 63) & ~(uintptr_t)63); /* vectors are read from it */
    const int64_t step = forest->oblivious ? LANES : BLOCK;
    memset(scores, 0, (size_t)(count * forest->outputs) * sizeof(float));
    for (int64_t first = 0; first < count; first += step) {
        const int64_t block = count - first < step ? count - first : step;
        const float *block_rows = rows + first * forest->features;
        float *sums = scores + first * forest->outputs;
        if (forest->oblivious) {
            if (block < LANES)
                memset(filled, 0, floats * sizeof(float));
            fill_slots(forest, block_rows, block, 1, LANES, filled);
            look_up(forest, filled, block, sums);
        } else {
            fill_slots(forest, block_rows, block, forest->slots, 1, filled);
            walk_block(forest, filled, block, (walks *)(filled + floats), sums);
        }
    }
    free(memory);
    for (int64_t i = 0; i < count; i++)
        link_row(forest, scores + i * forest->outputs);
    return OK;
}
