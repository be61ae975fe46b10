/* Walks through the trees of a forest, a lane each; included by forest.c.
 *
 * The walks of a chunk of trees stand one after the other, by tree and then by row. Those of one tree are of much the
 * same length and share the nodes near its root.
 */

typedef struct {
    int32_t roots[ITEMS];
    int32_t bases[ITEMS]; /* where the slots of the walk's row begin */
    float leaves[ITEMS];  /* what it finds */
} walks;

#ifdef WIDE
enum { TURNS = 4 }; /* vectors of lanes that take turns: with 3 it takes a fifth longer, with 6 as long */

/* Walk all, 16 lanes to a vector; a lane that arrives stores its leaf and takes the next walk. */
WIDE
static void walk_wide(const tailrace_forest *forest, const float *filled, int64_t count, walks *all)
{
    const tailrace_node *nodes = forest->nodes;
    const __m512i slots = _mm512_set1_epi32((int)((1u << forest->bits) - 1)), one = _mm512_set1_epi32(1);
    const __m512i numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m128i bits = _mm_cvtsi32_si128((int)forest->bits);
    __m512i at[TURNS], base[TURNS], item[TURNS];
    __mmask16 live[TURNS];
    int64_t next = 0;
#pragma GCC unroll 8
    for (int turn = 0; turn < TURNS; turn++) {
        const int64_t left = count - next;
        live[turn] = left >= LANES ? 0xffff : (__mmask16)((1u << left) - 1);
        at[turn] = _mm512_maskz_loadu_epi32(live[turn], all->roots + next);
        base[turn] = _mm512_maskz_loadu_epi32(live[turn], all->bases + next);
        item[turn] = _mm512_add_epi32(numbers, _mm512_set1_epi32((int)next));
        next += left >= LANES ? LANES : left;
    }
    for (unsigned walking = 1; walking;) {
        walking = 0;
#pragma GCC unroll 8
        for (int turn = 0; turn < TURNS; turn++) {
            if (!live[turn])
                continue;
            const __m512 value = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), live[turn], at[turn], nodes, 8);
            const __m512i ahead =
                _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), live[turn], at[turn], (const char *)nodes + 4, 8);
            const __m512i child = _mm512_srl_epi32(ahead, bits);
            const __mmask16 inner = _mm512_mask_test_epi32_mask(live[turn], child, child);
            const __m512i slot = _mm512_add_epi32(base[turn], _mm512_and_si512(ahead, slots));
            const __m512 x = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), inner, slot, filled, 4);
            const __mmask16 right = _mm512_mask_cmp_ps_mask(inner, x, value, _CMP_NLE_UQ);
            __mmask16 arrived = live[turn] & (__mmask16)~inner;
            at[turn] = _mm512_mask_add_epi32(at[turn], inner, at[turn], child);
            at[turn] = _mm512_mask_add_epi32(at[turn], right, at[turn], one);
            live[turn] = inner;
            if (arrived) {
                _mm512_mask_i32scatter_ps(all->leaves, arrived, item[turn], value, 4);
                if (__builtin_popcount(arrived) > count - next) /* fewer walks are left than lanes */
                    arrived = (__mmask16)_pdep_u32((1u << (count - next)) - 1, arrived);
                at[turn] = _mm512_mask_expandloadu_epi32(at[turn], arrived, all->roots + next);
                base[turn] = _mm512_mask_expandloadu_epi32(base[turn], arrived, all->bases + next);
                item[turn] = _mm512_mask_expand_epi32(item[turn], arrived,
                                                      _mm512_add_epi32(numbers, _mm512_set1_epi32((int)next)));
                next += __builtin_popcount(arrived);
                live[turn] |= arrived;
            }
            walking |= live[turn];
        }
    }
}
#endif

/* Walk all, 16 at a time until the last of them has arrived: a leaf is ahead of itself by nothing. */
static void walk_plain(const tailrace_forest *forest, const float *filled, int64_t count, walks *all)
{
    const tailrace_node *nodes = forest->nodes;
    const uint32_t bits = (uint32_t)forest->bits, slots = (1u << bits) - 1;
    for (int64_t first = 0; first < count; first += LANES) {
        const int64_t some = count - first < LANES ? count - first : LANES;
        uint32_t at[LANES], any;
        int32_t base[LANES];
        for (int64_t lane = 0; lane < LANES; lane++) {
            const int64_t item = first + (lane < some ? lane : 0);
            at[lane] = (uint32_t)all->roots[item];
            base[lane] = all->bases[item];
        }
        do {
            any = 0;
            for (int64_t lane = 0; lane < LANES; lane++) {
                const tailrace_node node = nodes[at[lane]];
                const uint32_t child = node.next >> bits;
                const uint32_t right = !(filled[base[lane] + (int32_t)(node.next & slots)] <= node.value);
                at[lane] += child + (right & (child != 0));
                any |= child;
            }
        } while (any);
        for (int64_t lane = 0; lane < some; lane++)
            all->leaves[first + lane] = nodes[at[lane]].value;
    }
}

/* Add the leaves of `trees` trees, from the first one on, to the sums of `count` rows: (count, outputs). */
static void add_leaves(const tailrace_forest *forest, int64_t first, int64_t trees, int64_t count, const float *leaves,
                       float *restrict sums)
{
    const int64_t outputs = forest->outputs;
    for (int64_t tree = first; tree < first + trees; tree++, leaves += count) {
        if (forest->targets != NULL) {
            float *restrict column = sums + forest->targets[tree];
            if (outputs == 1)
                for (int64_t i = 0; i < count; i++)
                    column[i] += leaves[i];
            else
                for (int64_t i = 0; i < count; i++)
                    column[i * outputs] += leaves[i];
            continue;
        }
        for (int64_t i = 0; i < count; i++) {
            uint32_t place;
            memcpy(&place, leaves + i, sizeof place);
            for (int64_t k = 0; k < outputs; k++)
                sums[i * outputs + k] += forest->vectors[place * outputs + k];
        }
    }
}

/* Add every tree's leaf to the sums of up to BLOCK rows, whose slots are filled row after row. */
static void walk_block(const tailrace_forest *forest, const float *filled, int64_t count, walks *all, float *sums)
{
    const int64_t chunk = ITEMS / count;
    for (int64_t first = 0; first < forest->trees; first += chunk) {
        const int64_t trees = forest->trees - first < chunk ? forest->trees - first : chunk;
        int64_t item = 0;
        for (int64_t tree = first; tree < first + trees; tree++)
            for (int64_t i = 0; i < count; i++, item++) {
                all->roots[item] = forest->starts[tree];
                all->bases[item] = (int32_t)(i * forest->slots);
            }
#ifdef WIDE
        if (has_wide())
            walk_wide(forest, filled, item, all);
        else
#endif
            walk_plain(forest, filled, item, all);
        add_leaves(forest, first, trees, count, all->leaves, sums);
    }
}
