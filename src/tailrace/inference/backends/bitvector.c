/* Tree ensembles scored with bit vectors: no branch of a tree is ever taken.
 *
 * Every tree has a word of one bit a leaf, all set at first. A split whose test fails (x > threshold) clears the bits
 * of the leaves in its left subtree, and the lowest bit that is left is the leaf the row falls into. The splits of all
 * trees stand together, by feature, in ascending order of their thresholds; so those that fail for a value are the
 * first ones, and one binary search a feature finds how many. What the first 2^shift, 2 * 2^shift, … of them clear
 * together is worked out beforehand (a checkpoint: one word a tree), so that a value costs one AND over the trees and
 * fewer than 2^shift single words.
 *
 *   C. Lucchese et al., "QuickScorer: a Fast Algorithm to Rank Documents with Additive Ensembles of Regression
 *     Trees", SIGIR 2015: the bit vectors, the splits ordered by feature and threshold.
 *   T. Ye et al., "RapidScorer: Fast Tree Ensemble Evaluation by Maximizing Compactness in Data Level Parallelism",
 *     KDD 2018: splits of all trees merged, several rows at a time.
 *   The checkpoints are ours: with a handful of rows a call, skipping splits counts for more than sharing them.
 *
 * Leaves are added in the order of the trees, in float, as ONNX Runtime's single thread adds them: the sum is the same
 * to the last bit, and a sigmoid of it to some 1e-7. C99 with GCC's and Clang's builtins; no Python in it, so the caller's thread need not hold the GIL.
 *
 * Bounds: nothing is checked here. The caller sees to it (tailrace.inference.backends.tree_tables) that tree ids and columns are
 * within their ranges, that there is a checkpoint for every 2^shift splits of a feature, and that no mask clears the
 * highest bit of a word: then every word keeps a bit, and every leaf found is one of the word's.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LAYOUT 1 /* of the struct below; the caller's differs when the library was compiled from another version */
#define BLOCK 16 /* rows worked on together: their words stay in the first-level cache */

enum { OK = 0, OTHER_LAYOUT = 1, NO_MEMORY = 2 };

typedef struct {
    int64_t layout;
    int64_t features;            /* columns of a row */
    int64_t used;                /* features with a split */
    int64_t trees;
    int64_t leaves;              /* bits of a word: 32 or 64 */
    int64_t shift;
    int64_t sigmoid;
    const int32_t *columns;      /* (used): the column of each */
    const int32_t *offsets;      /* (used + 1): its first split */
    const int32_t *first_rows;   /* (used): its first row of checkpoints: what a NaN clears, then the checkpoints */
    const float *thresholds;     /* (splits), ascending within a feature */
    const int32_t *split_trees;  /* (splits) */
    const void *split_masks;     /* (splits) words: the bits that stay */
    const void *checkpoints;     /* (rows of checkpoints, trees) words */
    const float *values;         /* (trees, leaves) */
    double base;                 /* score = sum + base, in float */
} tailrace_trees;

#ifdef TAILRACE_CLONES /* one copy for each kind of processor, chosen when the library is loaded */
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

/* Find for each of `count` rows how many thresholds are below its value; -1 for NaN. Rows take turns at every step of
 * the search, without a branch: a branch would be foreseen half of the time. */
static inline void find_failed(const float *restrict column, int64_t stride, int64_t count,
                               const float *restrict thresholds, int32_t splits, int32_t *restrict failed)
{
    float values[BLOCK];
    for (int64_t i = 0; i < count; i++) {
        values[i] = column[i * stride];
        failed[i] = 0;
    }
    for (int32_t left = splits; left > 1; left -= left >> 1) {
        const int32_t half = left >> 1;
        for (int64_t i = 0; i < count; i++)
            failed[i] += (thresholds[failed[i] + half - 1] < values[i]) * half;
    }
    for (int64_t i = 0; i < count; i++) {
        failed[i] += thresholds[failed[i]] < values[i];
        if (values[i] != values[i])
            failed[i] = -1;
    }
}

#define WORD uint32_t
#define LEAVES 32
#define LOWEST_BIT __builtin_ctz
#define NAMED(name) name##_32
#include "bitvector_block.h"
#undef WORD
#undef LEAVES
#undef LOWEST_BIT
#undef NAMED

#define WORD uint64_t
#define LEAVES 64
#define LOWEST_BIT __builtin_ctzll
#define NAMED(name) name##_64
#include "bitvector_block.h"

/* Score `count` rows of `features` floats each, one after the other, into `scores`. Returns OK, or why it did not. */
__attribute__((visibility("default")))
int tailrace_score(const tailrace_trees *trees, const float *rows, int64_t count, float *scores)
{
    if (trees->layout != LAYOUT)
        return OTHER_LAYOUT;
    void *words = malloc((size_t)BLOCK * (size_t)trees->trees * (size_t)(trees->leaves / 8));
    if (words == NULL)
        return NO_MEMORY;
    for (int64_t row = 0; row < count; row += BLOCK) {
        const int64_t block = count - row < BLOCK ? count - row : BLOCK;
        if (trees->leaves == 32)
            score_block_32(trees, rows + row * trees->features, block, words, scores + row);
        else
            score_block_64(trees, rows + row * trees->features, block, words, scores + row);
    }
    free(words);
    for (int64_t i = 0; i < count; i++) {
        const float score = scores[i] + (float)trees->base;
        scores[i] = trees->sigmoid ? 1.0f / (1.0f + expf(-score)) : score;
    }
    return OK;
}
