/* Oblivious trees as tables, for 16 rows together; included by forest.c.
 *
 * The slots are filled slot after slot, 16 rows each. A row's index is made of one bit a level, the root's highest: 1
 * where the test is false.
 */

#ifdef WIDE
WIDE
static void look_up_wide(const tailrace_forest *forest, const float *filled, int64_t count, float *sums)
{
    const int64_t outputs = forest->outputs;
    const __mmask16 rows = count >= LANES ? 0xffff : (__mmask16)((1u << count) - 1);
    const __m512i one = _mm512_set1_epi32(1);
    const __m512i numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i width = _mm512_set1_epi32((int)outputs), places = _mm512_mullo_epi32(numbers, width);
    const int32_t *tests = forest->tests;
    const float *thresholds = forest->thresholds;
    __m512 sum = _mm512_setzero_ps();
    for (int64_t tree = 0; tree < forest->trees; tree++) {
        __m512i index = _mm512_setzero_si512();
        for (int32_t level = 0; level < forest->depths[tree]; level++) {
            const __m512 x = _mm512_load_ps(filled + (int64_t)*tests++ * LANES);
            const __mmask16 right = _mm512_cmp_ps_mask(x, _mm512_set1_ps(*thresholds++), _CMP_NLE_UQ);
            index = _mm512_slli_epi32(index, 1);
            index = _mm512_mask_add_epi32(index, right, index, one);
        }
        const float *leaves = forest->vectors + forest->starts[tree] * outputs;
        if (outputs == 1) {
            sum = _mm512_add_ps(sum, _mm512_mask_i32gather_ps(sum, rows, index, leaves, 4));
            continue;
        }
        index = _mm512_mullo_epi32(index, width);
        for (int64_t k = 0; k < outputs; k++) {
            const __m512 some = _mm512_mask_i32gather_ps(sum, rows, places, sums + k, 4);
            const __m512 more = _mm512_mask_i32gather_ps(sum, rows, index, leaves + k, 4);
            _mm512_mask_i32scatter_ps(sums + k, rows, places, _mm512_add_ps(some, more), 4);
        }
    }
    if (outputs == 1)
        _mm512_mask_storeu_ps(sums, rows, sum);
}
#endif

#define HALF (LANES / 2) /* what a register holds before AVX-512 */
typedef float half_floats __attribute__((vector_size(HALF * 4)));
typedef int32_t half_integers __attribute__((vector_size(HALF * 4)));

CLONES
static void look_up_plain(const tailrace_forest *forest, const float *filled, int64_t count, float *sums)
{
    const int64_t outputs = forest->outputs;
    const int32_t *tests = forest->tests;
    const float *thresholds = forest->thresholds;
    for (int64_t tree = 0; tree < forest->trees; tree++) {
        half_integers left_a = {0}, left_b = {0}; /* the bits where the tests are true */
        for (int32_t level = 0; level < forest->depths[tree]; level++, tests++, thresholds++) {
            const half_floats *x = (const half_floats *)(filled + (int64_t)*tests * LANES);
            left_a = (left_a << 1) - (x[0] <= *thresholds);
            left_b = (left_b << 1) - (x[1] <= *thresholds);
        }
        const int32_t last = (int32_t)(((int64_t)1 << forest->depths[tree]) - 1);
        const float *leaves = forest->vectors + forest->starts[tree] * outputs;
        int32_t index[LANES];
        memcpy(index, &left_a, sizeof left_a);
        memcpy(index + HALF, &left_b, sizeof left_b);
        for (int64_t i = 0; i < count; i++)
            for (int64_t k = 0; k < outputs; k++)
                sums[i * outputs + k] += leaves[(last - index[i]) * outputs + k];
    }
}

/* Add every tree's leaf to the sums of up to 16 rows: (count, outputs). */
static void look_up(const tailrace_forest *forest, const float *filled, int64_t count, float *sums)
{
#ifdef WIDE
    if (has_wide()) {
        look_up_wide(forest, filled, count, sums);
        return;
    }
#endif
    look_up_plain(forest, filled, count, sums);
}
