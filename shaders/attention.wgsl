//! op: attention
//! out[r, h] = sum over j of softmax_j(scale * q[r, h] . key[j]) value[j], and appends key and value of row r.
//! rows:[m]  qkv:[m, (H + 2 G) D]  keys, values:[slots * context, G D]  out:[m, H D], H query heads, G key heads.
//! Row r attends to its slot's positions up to its own (causal) or to all of them. Positions before this batch come from
//! keys and values, positions of this batch from qkv, as the cache would have them: what another workgroup appends is never
//! read here, and how a sequence is cut into batches changes nothing.
//! A workgroup owns one row and one query head and walks the positions in tiles of WG: an invocation computes one score,
//! then WG invocations share out the D outputs. Online softmax: running maximum, running sum, rescaled outputs.
//! grid: m, heads, 1

/// Invocations per workgroup, and positions per tile. Tune: 32u, 64u, 128u
const WG = 64u;
/// Elements per head, D. Mode: 64u, 1u, 12u, 80u, 128u, 300u
const D = 64u;
/// A row does not see later rows of its slot. Mode: 1u, 0u
const CAUSAL = 1u;
/// Keys and values are kept as halves (1), or as floats (0). Mode: 0u, 1u
const HALF = 0u;

/// Words of a head in keys and values.
const WORDS = D / (1u + HALF);
const_assert WORDS * (1u + HALF) == D;
/// Outputs per invocation.
const OWN = (D + WG - 1u) / WG;
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
    /// Row pitch of qkv, in elements.
    qkv_pitch: u32,
    /// Row pitch of keys and values, in words.
    kv_pitch: u32,
    /// Row pitch of out, in elements.
    out_pitch: u32,
    /// Positions per slot.
    context: u32,
    /// Factor of the scores.
    scale: f32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> rows: array<Row>;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;
@group(0) @binding(2) var<storage, read_write> keys: array<u32>;
@group(0) @binding(3) var<storage, read_write> values: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

var<workgroup> query: array<f32, D>;
var<workgroup> weights: array<f32, WG>;
var<workgroup> maxima: array<f32, WG>;

/// Two floats as halves. What rounds to more than the largest half is no number, for WGSL does not say what it becomes, and
/// AMD's cuts it down to that half.
fn pair(v: vec2f) -> u32 {
    let beyond = select(vec2u(), vec2u(0x7c00u, 0x7c000000u), abs(v) >= vec2f(65520.0));
    return pack2x16float(v) | beyond.x | beyond.y;
}

/// Two elements of qkv as the cache keeps halves.
fn rounded(at: u32) -> vec2f {
    return unpack2x16float(pair(vec2f(qkv[at], qkv[at + 1u])));
}

/// The product of the query with the key at word `at` of the cache.
fn cached_product(at: u32) -> f32 {
    var sum = 0.0;
    if HALF == 1u {
        for (var i = 0u; i < D / 2u; i++) {
            sum += dot(vec2f(query[2u * i], query[2u * i + 1u]), unpack2x16float(keys[at + i]));
        }
    } else {
        for (var d = 0u; d < D; d++) {
            sum += query[d] * bitcast<f32>(keys[at + d]);
        }
    }
    return sum;
}

/// The product of the query with the key at element `at` of qkv.
fn new_product(at: u32) -> f32 {
    var sum = 0.0;
    if HALF == 1u {
        for (var d = 0u; d < D; d += 2u) {
            sum += dot(vec2f(query[d], query[d + 1u]), rounded(at + d));
        }
    } else {
        for (var d = 0u; d < D; d++) {
            sum += query[d] * qkv[at + d];
        }
    }
    return sum;
}

/// Element `d` of the value at word `at` of the cache.
fn cached_value(at: u32, d: u32) -> f32 {
    if HALF == 1u {
        return unpack2x16float(values[at + d / 2u])[d & 1u];
    }
    return bitcast<f32>(values[at + d]);
}

/// Element `d` of the value at element `at` of qkv.
fn new_value(at: u32, d: u32) -> f32 {
    if HALF == 1u {
        return rounded(at + (d & ~1u))[d & 1u];
    }
    return qkv[at + d];
}

/// The position of the last row of r's sequence in this batch.
fn last_position(r: u32) -> u32 {
    var last = r;
    while last + 1u < p.m && rows[last + 1u].first == rows[r].first {
        last += 1u;
    }
    return rows[last].position;
}

@compute @workgroup_size(WG)
fn attention(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let r = group.x;
    let head = group.y;
    let row = rows[r];
    let kv_head = head / (p.heads / p.kv_heads);
    let key_column = (p.heads + kv_head) * D;
    let value_column = key_column + p.kv_heads * D;
    let start = rows[row.first].position;
    let cache_row = row.slot * p.context;

    // The first query head of each group appends.
    if head % (p.heads / p.kv_heads) == 0u {
        let to = (cache_row + row.position) * p.kv_pitch + kv_head * WORDS;
        let key = r * p.qkv_pitch + key_column;
        let value = r * p.qkv_pitch + value_column;
        for (var i = lane; i < WORDS; i += WG) {
            if HALF == 1u {
                keys[to + i] = pair(vec2f(qkv[key + 2u * i], qkv[key + 2u * i + 1u]));
                values[to + i] = pair(vec2f(qkv[value + 2u * i], qkv[value + 2u * i + 1u]));
            } else {
                keys[to + i] = bitcast<u32>(qkv[key + i]);
                values[to + i] = bitcast<u32>(qkv[value + i]);
            }
        }
    }
    for (var d = lane; d < D; d += WG) {
        query[d] = p.scale * qkv[r * p.qkv_pitch + head * D + d];
    }
    var last = row.position;
    if CAUSAL == 0u {
        last = last_position(r);
    }

    var running_max = LOWEST;
    var running_sum = 0.0;
    var sums: array<f32, OWN>;
    for (var tile = 0u; tile <= last; tile += WG) {
        workgroupBarrier();
        let position = tile + lane;
        var score = LOWEST;
        if position <= last {
            if position < start {
                score = cached_product((cache_row + position) * p.kv_pitch + kv_head * WORDS);
            } else {
                score = new_product((row.first + position - start) * p.qkv_pitch + key_column);
            }
        }
        maxima[lane] = score;
        for (var reach = WG / 2u; reach > 0u; reach /= 2u) {
            workgroupBarrier();
            if lane < reach {
                maxima[lane] = max(maxima[lane], maxima[lane + reach]);
            }
        }
        workgroupBarrier();
        let tile_max = max(running_max, maxima[0]);
        let rescale = exp(running_max - tile_max);
        running_max = tile_max;
        // Past the last position the score is the lowest, and its weight 0.
        weights[lane] = exp(score - tile_max);
        workgroupBarrier();

        running_sum *= rescale;
        for (var i = 0u; i < OWN; i++) {
            sums[i] *= rescale;
        }
        let count = min(WG, last + 1u - tile);
        for (var t = 0u; t < count; t++) {
            let weight = weights[t];
            running_sum += weight;
            let position = tile + t;
            if position < start {
                let at = (cache_row + position) * p.kv_pitch + kv_head * WORDS;
                for (var i = 0u; i < OWN; i++) {
                    sums[i] += weight * cached_value(at, min(lane + i * WG, D - 1u));
                }
            } else {
                let at = (row.first + position - start) * p.qkv_pitch + value_column;
                for (var i = 0u; i < OWN; i++) {
                    sums[i] += weight * new_value(at, min(lane + i * WG, D - 1u));
                }
            }
        }
    }

    for (var i = 0u; i < OWN; i++) {
        let d = lane + i * WG;
        if d < D {
            out[r * p.out_pitch + head * D + d] = sums[i] / running_sum;
        }
    }
    // The last head keeps the tail of the row zero.
    if head + 1u == p.heads {
        for (var column = p.heads * D + lane; column < p.out_pitch; column += WG) {
            out[r * p.out_pitch + column] = 0.0;
        }
    }
}
