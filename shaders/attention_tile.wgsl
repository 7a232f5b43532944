//! op: attention
//! out[r, h] = sum over j of softmax_j(scale * q[r, h] . key[j]) value[j], and appends key and value of row r.
//! rows:[m]  qkv:[m, (H + 2 G) D]  keys, values:[slots * context, G D]  out:[m, H D], H query heads, G key heads.
//! Row r attends to its slot's positions up to its own (causal) or to all of them. Positions before this batch come from
//! keys and values, positions of this batch from qkv, as the cache would have them: what another workgroup appends is never
//! read here, and how a sequence is cut into batches changes nothing.
//! A workgroup owns ROWS rows of one query head, which share what they read: tiles of keys, then of values, go through
//! workgroup memory. Of eight invocations with four rows in common each has every eighth key of a tile, then every eighth
//! quad of the outputs. Online softmax (Dao 2023, arXiv 2307.08691): running maximum, running sum, rescaled outputs.
//! grid: ceil(m / ROWS), heads, 1

/// Rows per workgroup. Tune: 32u, 64u
const ROWS = 32u;
/// Elements per head, D. Mode: 64u, 4u, 12u, 80u, 128u, 300u
const D = 64u;
/// A row does not see later rows of its slot. Mode: 1u, 0u
const CAUSAL = 1u;
/// Keys and values are kept as halves (1), or as floats (0). Mode: 0u, 1u
const HALF = 0u;

/// Rows in fours, and invocations per workgroup.
const FOURS = ROWS / 4u;
const WG = 8u * FOURS;
/// Quads, and pairs of words in keys and values, of a head.
const QUADS = D / 4u;
const PAIRS = D / (2u + 2u * HALF);
/// Quads from one position of a tile to the next: odd, so that neighbours are on different banks.
const STRIDE = QUADS | 1u;
/// Keys of a tile to an invocation: as many as fit beside the weights and the maxima.
const KEYS = min(4u, (1024u - WG) / (8u * (STRIDE + FOURS)));
const TILE = 8u * KEYS;
/// Quads of outputs to an invocation, of each of its rows.
const OWN = (QUADS + 7u) / 8u;
const_assert D % 4u == 0u && KEYS > 0u;
/// Below every score; finite, because WGSL may assume that infinities do not occur.
const LOWEST = -1e30;

/// One row of a batch: which token, whose sequence, where in it, and the row at which its sequence begins in this batch.
struct Row { token: u32, slot: u32, position: u32, first: u32 }

struct Params {
    /// Rows of this batch.
    m: u32,
    /// Query heads, H.
    heads: u32,
    /// Key and value heads, G. H is a multiple of it.
    kv_heads: u32,
    /// Row pitch of qkv, in quads.
    qkv_pitch: u32,
    /// Row pitch of keys and values, in pairs of words.
    kv_pitch: u32,
    /// Row pitch of out, in quads.
    out_pitch: u32,
    /// Positions per slot.
    context: u32,
    /// Factor of the scores.
    scale: f32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> rows: array<Row>;
@group(0) @binding(1) var<storage, read> qkv: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> keys: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read_write> values: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4f>;

/// Keys, then values, position by position.
var<workgroup> tile: array<vec4f, TILE * STRIDE>;
/// What four rows weigh a position with, position by position.
var<workgroup> weights: array<vec4f, TILE * FOURS>;
/// The highest scores of four rows that each invocation has.
var<workgroup> maxima: array<vec4f, WG>;

/// What a workgroup's rows see.
struct Seen {
    /// The first position of this batch, and the row that has it.
    start: u32,
    first: u32,
    /// The last position that any of them sees.
    last: u32,
    /// The slot's first pair of words, of the key head.
    cache: u32,
    /// First quads in a row of qkv.
    key: u32,
    value: u32,
}

/// Two floats as halves. What rounds to more than the largest half is no number, for WGSL does not say what it becomes, and
/// AMD's cuts it down to that half.
fn pair(v: vec2f) -> u32 {
    let beyond = select(vec2u(), vec2u(0x7c00u, 0x7c000000u), abs(v) >= vec2f(65520.0));
    return pack2x16float(v) | beyond.x | beyond.y;
}

/// A quad as the cache keeps halves.
fn halves(v: vec4f) -> vec2<u32> {
    return vec2<u32>(pair(v.xy), pair(v.zw));
}

fn floats(words: vec2<u32>) -> vec4f {
    return vec4f(unpack2x16float(words.x), unpack2x16float(words.y));
}

/// A quad of qkv as it will be in the cache.
fn new4(at: u32) -> vec4f {
    let v = qkv[at];
    if HALF == 1u {
        return floats(halves(v));
    }
    return v;
}

fn key4(seen: Seen, position: u32, quad: u32) -> vec4f {
    if position >= seen.start {
        return new4((seen.first + position - seen.start) * p.qkv_pitch + seen.key + quad);
    }
    let at = seen.cache + position * p.kv_pitch;
    if HALF == 1u {
        return floats(keys[at + quad]);
    }
    return vec4f(bitcast<vec2f>(keys[at + 2u * quad]), bitcast<vec2f>(keys[at + 2u * quad + 1u]));
}

fn value4(seen: Seen, position: u32, quad: u32) -> vec4f {
    if position >= seen.start {
        return new4((seen.first + position - seen.start) * p.qkv_pitch + seen.value + quad);
    }
    let at = seen.cache + position * p.kv_pitch;
    if HALF == 1u {
        return floats(values[at + quad]);
    }
    return vec4f(bitcast<vec2f>(values[at + 2u * quad]), bitcast<vec2f>(values[at + 2u * quad + 1u]));
}

/// Appends keys and values of the rows before `end`.
fn append_rows(row0: u32, end: u32, seen: Seen, lane: u32) {
    for (var i = lane; i < (end - row0) * QUADS; i += WG) {
        let row = row0 + i / QUADS;
        let quad = i % QUADS;
        let to = seen.cache + rows[row].position * p.kv_pitch;
        let key = qkv[row * p.qkv_pitch + seen.key + quad];
        let value = qkv[row * p.qkv_pitch + seen.value + quad];
        if HALF == 1u {
            keys[to + quad] = halves(key);
            values[to + quad] = halves(value);
        } else {
            keys[to + 2u * quad] = bitcast<vec2<u32>>(key.xy);
            keys[to + 2u * quad + 1u] = bitcast<vec2<u32>>(key.zw);
            values[to + 2u * quad] = bitcast<vec2<u32>>(value.xy);
            values[to + 2u * quad + 1u] = bitcast<vec2<u32>>(value.zw);
        }
    }
}

/// The position of the last row of r's sequence in this batch.
fn last_position(r: u32) -> u32 {
    var last = r;
    while last + 1u < p.m && rows[last + 1u].first == rows[r].first {
        last += 1u;
    }
    return rows[last].position;
}

/// Rows of one sequence, from `row0` to before `end`, at most ROWS.
fn attend_rows(row0: u32, end: u32, head: u32, lane: u32) {
    let tx = lane % 8u;
    let ty = lane / 8u;
    let row = rows[row0];
    let kv_head = head / (p.heads / p.kv_heads);
    let key = (p.heads + kv_head) * QUADS;
    let cache = row.slot * p.context * p.kv_pitch + kv_head * PAIRS;
    var seen = Seen(rows[row.first].position, row.first, rows[end - 1u].position, cache, key, key + p.kv_heads * QUADS);
    let own = 4u * ty + vec4u(0u, 1u, 2u, 3u);
    // Row by row, what each sees last.
    var last = row.position + own;
    if CAUSAL == 0u {
        seen.last = last_position(row0);
        last = vec4u(seen.last);
    }
    // The first query head of each group appends.
    if head % (p.heads / p.kv_heads) == 0u {
        append_rows(row0, end, seen, lane);
    }
    // What lies beyond the last row is computed from it, and not written.
    let query = min(row0 + own, vec4u(end - 1u)) * p.qkv_pitch + head * QUADS;

    var peaks = vec4f(LOWEST);
    var sums = vec4f();
    var outputs: array<mat4x4f, OWN>;
    for (var first = 0u; first <= seen.last; first += TILE) {
        // Everyone is done with the values of the tile before.
        workgroupBarrier();
        for (var i = lane; i < TILE * QUADS; i += WG) {
            tile[i / QUADS * STRIDE + i % QUADS] = key4(seen, min(first + i / QUADS, seen.last), i % QUADS);
        }
        workgroupBarrier();
        var scores: array<vec4f, KEYS>;
        for (var quad = 0u; quad < QUADS; quad++) {
            let q = mat4x4f(qkv[query.x + quad], qkv[query.y + quad], qkv[query.z + quad], qkv[query.w + quad]);
            for (var j = 0u; j < KEYS; j++) {
                // A row times a matrix is its products with the columns.
                scores[j] += tile[(tx + 8u * j) * STRIDE + quad] * q;
            }
        }
        var highest = vec4f(LOWEST);
        for (var j = 0u; j < KEYS; j++) {
            scores[j] = select(vec4f(LOWEST), p.scale * scores[j], vec4u(first + tx + 8u * j) <= last);
            highest = max(highest, scores[j]);
        }
        maxima[lane] = highest;
        workgroupBarrier();
        let before = peaks;
        for (var other = 0u; other < 8u; other++) {
            peaks = max(peaks, maxima[8u * ty + other]);
        }
        for (var j = 0u; j < KEYS; j++) {
            weights[(tx + 8u * j) * FOURS + ty] = exp(scores[j] - peaks);
        }
        for (var i = lane; i < TILE * QUADS; i += WG) {
            tile[i / QUADS * STRIDE + i % QUADS] = value4(seen, min(first + i / QUADS, seen.last), i % QUADS);
        }
        let rescale = exp(before - peaks);
        sums *= rescale;
        for (var i = 0u; i < OWN; i++) {
            let o = outputs[i];
            outputs[i] = mat4x4f(rescale.x * o[0], rescale.y * o[1], rescale.z * o[2], rescale.w * o[3]);
        }
        workgroupBarrier();
        for (var t = 0u; t < min(TILE, seen.last + 1u - first); t++) {
            let weight = weights[t * FOURS + ty];
            sums += weight;
            for (var i = 0u; i < OWN; i++) {
                let value = tile[t * STRIDE + min(tx + 8u * i, QUADS - 1u)];
                outputs[i] += mat4x4f(weight.x * value, weight.y * value, weight.z * value, weight.w * value);
            }
        }
    }
    for (var i = 0u; i < OWN; i++) {
        let quad = tx + 8u * i;
        for (var r = 0u; r < 4u; r++) {
            if row0 + own[r] < end && quad < QUADS {
                out[(row0 + own[r]) * p.out_pitch + head * QUADS + quad] = outputs[i][r] / sums[r];
            }
        }
    }
}

@compute @workgroup_size(WG)
fn attention_tile(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let end = min((group.x + 1u) * ROWS, p.m);
    // Of a batch, a sequence's rows after the other's.
    for (var row = group.x * ROWS; row < end; row++) {
        let first = row;
        while row + 1u < end && rows[row + 1u].first == rows[first].first {
            row += 1u;
        }
        attend_rows(first, row + 1u, group.y, lane);
    }
}
