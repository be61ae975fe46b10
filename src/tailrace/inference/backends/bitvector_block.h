/* A block of rows for one width of word; included by bitvector.c once for each.
 *
 * WORD, LEAVES: the word and its bits. LOWEST_BIT: the builtin that finds one. NAMED: makes a name of this width.
 */

/* Clear the leaves that each of `count` rows cannot fall into: words is (count, trees). */
static inline void NAMED(clear_leaves)(const tailrace_trees *trees, int64_t used, int64_t count,
                                       const int32_t *restrict failed, WORD *restrict words)
{
    const int64_t width = trees->trees;
    const int32_t *split_trees = trees->split_trees + trees->offsets[used];
    const WORD *split_masks = (const WORD *)trees->split_masks + trees->offsets[used];
    const WORD *checkpoints = (const WORD *)trees->checkpoints + trees->first_rows[used] * width;
    for (int64_t i = 0; i < count; i++) {
        WORD *restrict row = words + i * width;
        const int32_t passed = failed[i] < 0 ? 0 : failed[i] >> trees->shift;
        if (passed > 0 || failed[i] < 0) {
            const WORD *restrict checkpoint = checkpoints + passed * width;
            for (int64_t tree = 0; tree < width; tree++)
                row[tree] &= checkpoint[tree];
        }
        for (int32_t split = passed << trees->shift; split < failed[i]; split++)
            row[split_trees[split]] &= split_masks[split];
    }
}

/* Add the value of every tree's leaf, tree after tree; four rows take turns, since each sum waits for its last part. */
static inline void NAMED(add_leaves)(const tailrace_trees *trees, int64_t count, const WORD *restrict words,
                                     float *restrict sums)
{
    const int64_t width = trees->trees;
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        const WORD *a = words + i * width, *b = a + width, *c = b + width, *d = c + width;
        const float *values = trees->values;
        float sum_a = 0, sum_b = 0, sum_c = 0, sum_d = 0;
        for (int64_t tree = 0; tree < width; tree++, values += LEAVES) {
            sum_a += values[LOWEST_BIT(a[tree])];
            sum_b += values[LOWEST_BIT(b[tree])];
            sum_c += values[LOWEST_BIT(c[tree])];
            sum_d += values[LOWEST_BIT(d[tree])];
        }
        sums[i] = sum_a, sums[i + 1] = sum_b, sums[i + 2] = sum_c, sums[i + 3] = sum_d;
    }
    for (; i < count; i++) {
        const WORD *row = words + i * width;
        const float *values = trees->values;
        float sum = 0;
        for (int64_t tree = 0; tree < width; tree++, values += LEAVES)
            sum += values[LOWEST_BIT(row[tree])];
        sums[i] = sum;
    }
}

CLONES
static void NAMED(score_block)(const tailrace_trees *trees, const float *rows, int64_t count, WORD *words,
                               float *sums)
{
    int32_t failed[BLOCK];
    memset(words, 0xff, (size_t)(count * trees->trees) * sizeof(WORD));
    for (int64_t used = 0; used < trees->used; used++) {
        const int32_t offset = trees->offsets[used];
        find_failed(rows + trees->columns[used], trees->features, count, trees->thresholds + offset,
                    trees->offsets[used + 1] - offset, failed);
        NAMED(clear_leaves)(trees, used, count, failed, words);
    }
    NAMED(add_leaves)(trees, count, words, sums);
}
