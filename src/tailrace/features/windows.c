/* Windows over the states of a stream view, merged for the rows of a batch: windows.py's rule, compiled.
 *
 * The rule is that of WindowSet there, the algebra that of lanes.py, the stored value that of states.py: what is said
 * there is not said again here, and a change there is a change here (tests/features/test_window_kernel.py compares).
 *
 * An entity's entries are walked once, from the newest back. Windows of one delay end at the same entry, so they come
 * shortest first, and each goes on from where the one before it began:
 *
 *      tiles                                events
 *    |······|···|···|··|··|··|·|·|·|·|·|   | | || | |
 *                                             <------    the shortest window
 *                            <----------------           what the next one adds to it
 *      <---------------------                            and the longest one
 *
 * C99; little-endian, as the stored value is. No Python in it.
 *
 * Bounds: nothing is read of a value before its length is what its head says; within it, times that are in no order
 * give a wrong number, and never a place outside. The caller sees to it (window_kernel.py) that the plan's places are
 * within its arrays, and that every array has an item for each row.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LAYOUT 2 /* of the structs below; the caller's differs when the library was compiled from another version */
#define NS_PER_S INT64_C(1000000000)
#define NEVER INT64_MIN
#define HEAD_BYTES 48
#define TILE_HEAD_BYTES 4   /* its time, in seconds before the horizon's, the low 32 bits */
#define EVENT_HEAD_BYTES 16 /* its time, in ns, and its id's check */

enum { FRESH = 0, NOTED = 1, OTHER_LAYOUT = 2, NO_MEMORY = 3 };
enum { FOUND = 1, REFUSED = 2, LATE = 4 };
enum { COUNT, WHOLE_SUM, FLOAT_SUM, LEAST, GREATEST, MOMENTS, LATEST, EARLIEST };

typedef struct {
    int64_t length_ns;  /* negative: it has no beginning */
    int64_t hop_ns;
    int64_t delay_ns;
    int64_t first_cell; /* its cells are those from here to the next window's */
} tailrace_window;

typedef struct {
    int64_t kind;
    int64_t offset;      /* of its fields, behind an entry's head */
    int64_t first_field; /* among the fields of all lanes */
} tailrace_lane;

typedef struct {
    int64_t lane;
    int64_t field;
    int64_t slot;        /* where it goes */
    int64_t is_real;     /* as a float, if it is a whole number */
    int64_t has_current; /* whether the event that the row is asked for counts in it */
} tailrace_cell;

typedef struct {
    int64_t layout;
    uint64_t stamp;
    int64_t tile_bytes;
    int64_t event_bytes;
    int64_t has_text_ids;
    int64_t windows_count;
    int64_t lanes_count;
    int64_t slots;                  /* the flags of the rows are in the slot behind them */
    int64_t delay_ns;               /* the longest of all windows */
    const tailrace_window *windows; /* one more, for the end of the last one's cells */
    const tailrace_lane *lanes;
    const tailrace_cell *cells;
} tailrace_plan;

typedef struct {
    const unsigned char *entries; /* (count), each of `bytes`: a head, then the fields of every lane */
    int64_t count;
    int64_t bytes;
    int64_t head_bytes;
    int64_t horizon_s; /* of the entity: tiles are before it */
} entry_list;

typedef struct {
    entry_list tiles;
    entry_list events;
    const unsigned char *id_lengths; /* of the events, where ids are texts; the texts follow */
} entity_state;

/* What some entries of a lane come to. whole: a count, a whole sum or a time. value: a float, or how far the mean is
 * from `shift`, the first one met: so a variance keeps its digits where values are large and alike. */
typedef struct {
    int64_t whole;
    double value;
    double square;
    double shift;
} lane_total;

typedef struct {
    const unsigned char *id; /* NULL: the window ends before the event's time */
    int64_t id_bytes;
    const int64_t *own; /* the fields of the event's own entries, `stride` apart; NULL: it has none */
    int64_t stride;
} current_event;

static inline uint16_t load_u16(const unsigned char *at) { uint16_t v; memcpy(&v, at, sizeof v); return v; }
static inline uint32_t load_u32(const unsigned char *at) { uint32_t v; memcpy(&v, at, sizeof v); return v; }
static inline uint64_t load_u64(const unsigned char *at) { uint64_t v; memcpy(&v, at, sizeof v); return v; }
static inline int64_t load_i64(const unsigned char *at) { int64_t v; memcpy(&v, at, sizeof v); return v; }
static inline double load_f64(const unsigned char *at) { double v; memcpy(&v, at, sizeof v); return v; }
static inline int64_t bits_of(double value) { int64_t v; memcpy(&v, &value, sizeof v); return v; }
static inline double float_of(int64_t bits) { double v; memcpy(&v, &bits, sizeof v); return v; }

/* Whole numbers wrap, as NumPy's do. */
static inline int64_t add(int64_t a, int64_t b) { return (int64_t)((uint64_t)a + (uint64_t)b); }
static inline int64_t subtract(int64_t a, int64_t b) { return (int64_t)((uint64_t)a - (uint64_t)b); }

static inline int64_t time_of(const entry_list *list, int64_t place)
{
    const unsigned char *entry = list->entries + place * list->bytes;
    if (list->head_bytes != TILE_HEAD_BYTES)
        return load_i64(entry);
    const int64_t before_s = (uint32_t)((uint64_t)list->horizon_s - load_u32(entry));
    return (int64_t)((uint64_t)subtract(list->horizon_s, before_s) * (uint64_t)NS_PER_S);
}

/* Read where everything is in a stored value; say whether it is this entity's, whole, and of this plan. */
static int read_state(const tailrace_plan *plan, const unsigned char *value, int64_t length, int64_t check,
                      entity_state *state)
{
    if (length < HEAD_BYTES || load_u64(value) != plan->stamp || load_i64(value + 8) != check)
        return 0;
    const int64_t tiles = load_u32(value + 32), events = load_u32(value + 36), id_bytes = load_u32(value + 44);
    const int64_t tiles_end = HEAD_BYTES + tiles * plan->tile_bytes;
    const int64_t events_end = tiles_end + events * plan->event_bytes;
    if (events_end + id_bytes != length)
        return 0;
    if (plan->has_text_ids) {
        int64_t wanted = 2 * events;
        if (id_bytes < wanted)
            return 0;
        for (int64_t i = 0; i < events; i++)
            wanted += load_u16(value + events_end + 2 * i);
        if (id_bytes != wanted)
            return 0;
    } else if (id_bytes != 0)
        return 0;
    const int64_t horizon = load_i64(value + 16), rest = horizon % NS_PER_S;
    const int64_t horizon_s = horizon / NS_PER_S - (rest < 0);
    state->tiles = (entry_list){value + HEAD_BYTES, tiles, plan->tile_bytes, TILE_HEAD_BYTES, horizon_s};
    state->events = (entry_list){value + tiles_end, events, plan->event_bytes, EVENT_HEAD_BYTES, horizon_s};
    state->id_lengths = value + events_end;
    return 1;
}

/* Find the first entry that is not before a time. */
static int64_t find_time(const entry_list *list, int64_t time)
{
    int64_t low = 0, high = list->count;
    if (high == 0 || time_of(list, high - 1) < time)
        return high; /* as nearly always: a window ends now */
    while (low < high) {
        const int64_t middle = (low + high) >> 1;
        if (time_of(list, middle) < time)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* A text's length without the zeros behind it, which NumPy's texts do not have. */
static inline int64_t text_length(const unsigned char *text, int64_t length)
{
    while (length > 0 && text[length - 1] == 0)
        length--;
    return length;
}

static int is_text_below(const unsigned char *text, int64_t length, const unsigned char *other, int64_t other_length)
{
    length = text_length(text, length);
    other_length = text_length(other, other_length);
    const int order = memcmp(text, other, (size_t)(length < other_length ? length : other_length));
    return order < 0 || (order == 0 && length < other_length);
}

/* Go on past the events of this very time whose id is below the one that is asked for. */
static int64_t pass_ids(const tailrace_plan *plan, const entity_state *state, int64_t place, int64_t time,
                        const current_event *current)
{
    const entry_list *events = &state->events;
    if (current->id == NULL || place == events->count || time_of(events, place) != time)
        return place;
    if (!plan->has_text_ids) {
        const int64_t id = load_i64(current->id);
        while (place < events->count && time_of(events, place) == time
               && load_i64(events->entries + place * events->bytes + 8) < id)
            place++;
        return place;
    }
    const unsigned char *text = state->id_lengths + 2 * events->count;
    for (int64_t i = 0; i < place; i++)
        text += load_u16(state->id_lengths + 2 * i);
    while (place < events->count && time_of(events, place) == time) {
        const int64_t length = load_u16(state->id_lengths + 2 * place);
        if (!is_text_below(text, length, current->id, current->id_bytes))
            break;
        text += length;
        place++;
    }
    return place;
}

/* When a window begins, in ns: windows.Window.begin. */
static int64_t begin_of(const tailrace_window *window, int64_t now)
{
    if (window->length_ns < 0)
        return INT64_MIN;
    const int64_t first = subtract(subtract(now, window->delay_ns), window->length_ns);
    const int64_t rest = first % window->hop_ns;
    return subtract(first, rest < 0 ? rest + window->hop_ns : rest);
}

/* Lanes: lanes.py compiled. -------------------------------------------------------------------------------------- */

static lane_total nothing(int64_t kind)
{
    lane_total total = {0, 0.0, 0.0, 0.0};
    if (kind == LEAST || kind == GREATEST)
        total.value = kind == LEAST ? INFINITY : -INFINITY;
    if (kind == LATEST || kind == EARLIEST)
        total.whole = NEVER;
    return total;
}

/* Merge values' count, mean and squared distances into others: Chan, Golub and LeVeque (1979), see lanes.py. */
static inline void add_moments(lane_total *total, int64_t count, double mean, double square)
{
    if (count == 0)
        return;
    if (total->whole == 0)
        total->shift = mean;
    const double before = (double)total->whole, weight = (double)count;
    const double apart = mean - total->shift - total->value, share = weight / (before + weight);
    total->square += square + apart * apart * before * share;
    total->value += apart * share;
    total->whole = add(total->whole, count);
}

/* Take the time and the value of an entry that counts. */
static inline void set_moment(lane_total *total, const unsigned char *field)
{
    const int64_t time = load_i64(field);
    if (time != NEVER) {
        total->whole = time;
        total->value = load_f64(field + 8);
    }
}

/* Merge the entries from `begin` to `end`, all older than those that were merged before, into a lane's total: into a
 * copy in registers, since for all that a compiler knows the bytes that are read might be the total's. */
static void add_entries(lane_total *merged, const tailrace_lane *lane, const entry_list *list, int64_t begin,
                        int64_t end)
{
    lane_total total = *merged;
    const int64_t bytes = list->bytes;
    const unsigned char *field = list->entries + list->head_bytes + lane->offset + begin * bytes;
    switch (lane->kind) {
    case COUNT:
        for (int64_t left = end - begin; left > 0; left--, field += bytes)
            total.whole = add(total.whole, load_u32(field));
        break;
    case WHOLE_SUM:
        for (int64_t left = end - begin; left > 0; left--, field += bytes)
            total.whole = add(total.whole, load_i64(field));
        break;
    case FLOAT_SUM:
        for (int64_t left = end - begin; left > 0; left--, field += bytes)
            total.value += load_f64(field);
        break;
    case LEAST:
        for (int64_t left = end - begin; left > 0; left--, field += bytes)
            total.value = load_f64(field) < total.value ? load_f64(field) : total.value;
        break;
    case GREATEST:
        for (int64_t left = end - begin; left > 0; left--, field += bytes)
            total.value = load_f64(field) > total.value ? load_f64(field) : total.value;
        break;
    case MOMENTS:
        for (int64_t left = end - begin; left > 0; left--, field += bytes)
            add_moments(&total, load_u32(field), load_f64(field + 4), load_f64(field + 12));
        break;
    case LATEST: /* of what is older, only where nothing newer counts */
        field += (end - begin - 1) * bytes;
        for (int64_t left = end - begin; left > 0 && total.whole == NEVER; left--, field -= bytes)
            set_moment(&total, field);
        break;
    case EARLIEST:
        field += (end - begin - 1) * bytes;
        for (int64_t left = end - begin; left > 0; left--, field -= bytes)
            set_moment(&total, field);
        break;
    }
    *merged = total;
}

/* Merge the entry of the event that the row is asked for, newer than all others, into a lane's total. */
static void add_own(lane_total *total, int64_t kind, const int64_t *own, int64_t stride)
{
    switch (kind) {
    case COUNT:
    case WHOLE_SUM:
        total->whole = add(total->whole, own[0]);
        break;
    case FLOAT_SUM:
        total->value += float_of(own[0]);
        break;
    case LEAST:
        total->value = float_of(own[0]) < total->value ? float_of(own[0]) : total->value;
        break;
    case GREATEST:
        total->value = float_of(own[0]) > total->value ? float_of(own[0]) : total->value;
        break;
    case MOMENTS:
        add_moments(total, own[0], float_of(own[stride]), float_of(own[2 * stride]));
        break;
    case LATEST:
    case EARLIEST:
        if (own[0] != NEVER && (kind == LATEST || total->whole == NEVER)) {
            total->whole = own[0];
            total->value = float_of(own[stride]);
        }
        break;
    }
}

/* A field of what a lane comes to, as the eight bytes of its cell. */
static int64_t field_of(const lane_total *total, int64_t kind, const tailrace_cell *cell)
{
    if (kind == FLOAT_SUM || kind == LEAST || kind == GREATEST)
        return bits_of(total->value);
    if (cell->field == 0)
        return cell->is_real ? bits_of((double)total->whole) : total->whole;
    if (kind == MOMENTS)
        return bits_of(cell->field == 1 ? total->shift + total->value : total->square);
    return bits_of(total->value);
}

/* Write a window's cells for one row. */
static void write_cells(const tailrace_plan *plan, const tailrace_window *window, const lane_total *totals,
                        const current_event *current, int64_t *cells, int64_t rows)
{
    for (int64_t i = window[0].first_cell; i < window[1].first_cell; i++) {
        const tailrace_cell *cell = plan->cells + i;
        const tailrace_lane *lane = plan->lanes + cell->lane;
        const lane_total *total = totals + cell->lane;
        lane_total with_own;
        if (cell->has_current && current->own != NULL) {
            with_own = *total;
            add_own(&with_own, lane->kind, current->own + lane->first_field * current->stride, current->stride);
            total = &with_own;
        }
        cells[cell->slot * rows] = field_of(total, lane->kind, cell);
    }
}

/* Merge all windows of one row; `totals` is room for a total of each lane. */
static void merge_row(const tailrace_plan *plan, const entity_state *state, int64_t now, const current_event *current,
                      lane_total *totals, int64_t *cells, int64_t rows)
{
    int64_t tile = 0, event = 0, tiles_end = 0, events_end = 0, begin_before = 0;
    for (int64_t w = 0; w < plan->windows_count; w++) {
        const tailrace_window *window = plan->windows + w;
        const int64_t begin = begin_of(window, now);
        const int is_first = w == 0 || window->delay_ns != window[-1].delay_ns;
        if (is_first) {
            const int64_t end = subtract(now, window->delay_ns);
            tiles_end = find_time(&state->tiles, end);
            events_end = pass_ids(plan, state, find_time(&state->events, end), end, current);
        }
        if (is_first || begin > begin_before) { /* a longer window, of a wider hop, may begin a little later */
            tile = tiles_end;
            event = events_end;
            for (int64_t l = 0; l < plan->lanes_count; l++)
                totals[l] = nothing(plan->lanes[l].kind);
        }
        begin_before = begin;
        const int64_t tile_before = tile, event_before = event;
        while (event > 0 && time_of(&state->events, event - 1) >= begin)
            event--;
        while (tile > 0 && time_of(&state->tiles, tile - 1) >= begin)
            tile--;
        if (event != event_before)
            for (int64_t l = 0; l < plan->lanes_count; l++)
                add_entries(totals + l, plan->lanes + l, &state->events, event, event_before);
        if (tile != tile_before)
            for (int64_t l = 0; l < plan->lanes_count; l++)
                add_entries(totals + l, plan->lanes + l, &state->tiles, tile, tile_before);
        write_cells(plan, window, totals, current, cells, rows);
    }
}

/* Merge the windows of `rows` rows.
 *
 * values: what is stored of each row's entity, one behind the other; numbers: their lengths, negative where nothing is
 * stored, then the entities' checks. now: in ns. ids: of the events that the rows are asked for, `id_bytes` each, or
 * NULL. own: these events' own entries, (fields of all lanes, rows), or NULL. cells: (slots + 1, rows); in the last are
 * the rows' flags. Returns FRESH, NOTED where a row's flags are not FOUND alone, or why nothing was done. */
__attribute__((visibility("default")))
int tailrace_merge_windows(const tailrace_plan *plan, const unsigned char *values, const int64_t *numbers, int64_t rows,
                           const int64_t *now, const unsigned char *ids, int64_t id_bytes, const int64_t *own,
                           int64_t *cells)
{
    if (plan->layout != LAYOUT)
        return OTHER_LAYOUT;
    lane_total *totals = malloc((size_t)(plan->lanes_count + 1) * sizeof *totals);
    if (totals == NULL)
        return NO_MEMORY;
    int status = FRESH;
    for (int64_t row = 0; row < rows; row++) {
        const int64_t length = numbers[row];
        const current_event current = {
            ids == NULL ? NULL : ids + row * id_bytes, id_bytes, own == NULL ? NULL : own + row, rows,
        };
        entity_state state;
        int64_t flags = FOUND;
        if (!read_state(plan, values, length, numbers[rows + row], &state)) {
            memset(&state, 0, sizeof state);
            flags = length < 0 ? 0 : REFUSED;
        } else if (load_i64(values + 16) > subtract(now[row], plan->delay_ns))
            flags |= LATE;
        merge_row(plan, &state, now[row], &current, totals, cells + row, rows);
        cells[plan->slots * rows + row] = flags;
        if (flags != FOUND)
            status = NOTED;
        if (length > 0)
            values += length;
    }
    free(totals);
    return status;
}
