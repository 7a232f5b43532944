//! op: attention_decode
//! out[r, h] = sum over j of softmax_j(scale * q[r, h] . key[j]) value[j] for one new row r of each sequence, whose query and
//! key are normed and turned on the way, and whose key and value are appended.
//! rows:[m]  qkv:[m, (H + 2 G) D]  table:[positions, R / 2]  weight:[H + G, D]  keys, values:[slots * context, G D]
//! out:[m, H D], or [m, parts, H D + H]: of each part its own softmax and, last, the logarithms of its sums.
//! A workgroup owns a row, QUERIES heads that share keys, and a part of the positions: each key is read once for all of them.
//! An invocation computes scores of whole positions, then outputs of a quad of D at every SHARES-th position. Online softmax.
//! grid: m, groups, parts

/// Invocations per workgroup. Tune: 16u, 32u, 64u, 128u, 256u
const WG = 64u;
/// Positions per invocation and tile. Tune: 1u, 2u, 4u, 8u
const EACH = 1u;
/// Elements per head, D. Mode: 64u, 8u, 80u, 128u, 256u
const D = 64u;
/// Query heads of a workgroup. Mode: 1u, 2u, 3u, 8u
const QUERIES = 1u;
/// Keys and values are kept as halves (1), or as floats (0). Mode: 0u, 1u
const HALF = 0u;
/// Queries and keys are turned in pairs of neighbours (1), or of one element of each half of the R (2). Mode: 0u, 1u, 2u
const TURN = 0u;
/// Queries and keys are divided by their root mean squares, and multiplied by a weight. Mode: 0u, 1u
const NORM = 0u;
/// There are several parts. Mode: 0u, 1u
const SPLIT = 0u;

const QUADS = D / 4u;
const TILE = WG * EACH;
/// Invocations that have the same quad of D.
const SHARES = WG / QUADS;
const_assert D % 8u == 0u && SHARES >= 1u;
const_assert 4u * (QUERIES * (D + TILE + WG) + D + 5u * WG) <= 16384u;
/// Below every score; finite, because WGSL may assume that infinities do not occur.
const LOWEST = -1e30;

/// One row of a batch: which token, whose sequence, where in it, and the row at which its sequence begins in this batch.
struct Row { token: u32, slot: u32, position: u32, first: u32 }

struct Params {
    /// Rows.
    m: u32,
    /// Query heads, H.
    heads: u32,
    /// Key and value heads, G. H is a multiple of it.
    kv_heads: u32,
    /// Workgroups to a row and part: H / QUERIES.
    groups: u32,
    /// Parts of the positions.
    parts: u32,
    /// Row pitch of qkv, in elements.
    qkv_pitch: u32,
    /// Row pitch of keys and values, in 16 bytes.
    kv_pitch: u32,
    /// Row pitch of out, in elements.
    out_pitch: u32,
    /// Positions per slot.
    context: u32,
    /// Factor of the scores.
    scale: f32,
    /// Pairs of a head that are turned, R / 2.
    pairs: u32,
    /// Row pitch of the table, in pairs.
    table_pitch: u32,
    /// Row pitch of weight, in elements.
    weight_pitch: u32,
    /// Added to the mean square of a head.
    eps: f32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> rows: array<Row>;
@group(0) @binding(1) var<storage, read> qkv: array<f32>;
@group(0) @binding(2) var<storage, read> table: array<vec2f>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read_write> keys: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> values: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

var<workgroup> queries: array<vec4f, QUERIES * QUADS>;
var<workgroup> new_key: array<vec4f, QUADS>;
/// Scores of a tile, then their exps.
var<workgroup> scores: array<f32, QUERIES * TILE>;
var<workgroup> maxima: array<f32, QUERIES * WG>;
var<workgroup> meeting: array<vec4f, WG>;
var<workgroup> totals: array<f32, WG>;

/// What the elements of a head are multiplied by, beside their weights.
fn head_scale(begin: u32) -> f32 {
    var squares = 0.0;
    for (var d = 0u; d < D; d++) {
        squares += qkv[begin + d] * qkv[begin + d];
    }
    return inverseSqrt(squares / f32(D) + p.eps);
}

/// Element `d` of the head at `begin`, normed.
fn normed(begin: u32, head: u32, d: u32, scale: f32) -> f32 {
    if NORM == 0u {
        return qkv[begin + d];
    }
    return qkv[begin + d] * scale * weight[head * p.weight_pitch + d];
}

/// Element `d` of the head at `begin`, normed and turned.
fn turned(begin: u32, head: u32, d: u32, scale: f32, position: u32) -> f32 {
    if TURN == 0u || d >= 2u * p.pairs {
        return normed(begin, head, d, scale);
    }
    var pair = d / 2u;
    var second = d & 1u;
    var first = d - second;
    var step = 1u;
    if TURN == 2u {
        second = d / p.pairs;
        pair = d - second * p.pairs;
        first = pair;
        step = p.pairs;
    }
    let turn = table[position * p.table_pitch + pair];
    let a = normed(begin, head, first, scale);
    let b = normed(begin, head, first + step, scale);
    return select(a * turn.x - b * turn.y, b * turn.x + a * turn.y, second == 1u);
}

/// A quad of a head of row r, turned.
fn turned4(r: u32, head: u32, quad: u32, scale: f32, position: u32) -> vec4f {
    let begin = r * p.qkv_pitch + head * D;
    let d = 4u * quad;
    return vec4f(
        turned(begin, head, d, scale, position),
        turned(begin, head, d + 1u, scale, position),
        turned(begin, head, d + 2u, scale, position),
        turned(begin, head, d + 3u, scale, position),
    );
}

/// Four floats as two words of halves.
fn pack(v: vec4f) -> vec2u {
    return vec2u(pack2x16float(v.xy), pack2x16float(v.zw));
}

/// Two words of halves as four floats.
fn unpack(words: vec2u) -> vec4f {
    return vec4f(unpack2x16float(words.x), unpack2x16float(words.y));
}

/// A quad of the value of row r, as the cache has it.
fn new_value(r: u32, kv_head: u32, quad: u32) -> vec4f {
    let at = r * p.qkv_pitch + (p.heads + p.kv_heads + kv_head) * D + 4u * quad;
    let value = vec4f(qkv[at], qkv[at + 1u], qkv[at + 2u], qkv[at + 3u]);
    if HALF == 1u {
        return unpack(pack(value));
    }
    return value;
}

@compute @workgroup_size(WG)
fn attention_decode(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let r = group.x;
    let row = rows[r];
    let head0 = group.y * QUERIES;
    let kv_head = head0 / (p.heads / p.kv_heads);
    // Where the heads of a row of the cache begin, in 16 bytes, and the rows of this slot.
    let kv_column = kv_head * QUADS / (1u + HALF);
    let cache_row = row.slot * p.context;

    for (var i = lane; i < QUERIES * QUADS; i += WG) {
        let head = head0 + i / QUADS;
        var scale = 1.0;
        if NORM == 1u {
            scale = head_scale(r * p.qkv_pitch + head * D);
        }
        queries[i] = p.scale * turned4(r, head, i % QUADS, scale, row.position);
    }
    for (var quad = lane; quad < QUADS; quad += WG) {
        let head = p.heads + kv_head;
        var scale = 1.0;
        if NORM == 1u {
            scale = head_scale(r * p.qkv_pitch + head * D);
        }
        let key = turned4(r, head, quad, scale, row.position);
        if HALF == 1u {
            new_key[quad] = unpack(pack(key));
        } else {
            new_key[quad] = key;
        }
    }
    workgroupBarrier();
    // One workgroup of each group of heads appends.
    if group.z == 0u && head0 % (p.heads / p.kv_heads) == 0u {
        let to = (cache_row + row.position) * p.kv_pitch + kv_column;
        for (var i = lane; i < QUADS / (1u + HALF); i += WG) {
            if HALF == 1u {
                keys[to + i] = vec4u(pack(new_key[2u * i]), pack(new_key[2u * i + 1u]));
                let first = new_value(r, kv_head, 2u * i);
                values[to + i] = vec4u(pack(first), pack(new_value(r, kv_head, 2u * i + 1u)));
            } else {
                keys[to + i] = bitcast<vec4u>(new_key[i]);
                values[to + i] = bitcast<vec4u>(new_value(r, kv_head, i));
            }
        }
    }

    // Positions before this row's own are in the cache; its own is here.
    let count = row.position + 1u;
    var share = count;
    if SPLIT == 1u {
        share = (count + p.parts - 1u) / p.parts;
    }
    let begin = group.z * share;
    let end = min(begin + share, count);

    let quad = lane % QUADS;
    let member = lane / QUADS;
    var running_max: array<f32, QUERIES>;
    var running_sum: array<f32, QUERIES>;
    var sums: array<vec4f, QUERIES>;
    for (var q = 0u; q < QUERIES; q++) {
        running_max[q] = LOWEST;
    }
    for (var tile = begin; tile < end; tile += TILE) {
        workgroupBarrier();
        for (var q = 0u; q < QUERIES; q++) {
            maxima[q * WG + lane] = LOWEST;
        }
        for (var t = lane; t < TILE; t += WG) {
            let position = tile + t;
            var products: array<f32, QUERIES>;
            if position + 1u < count && position < end {
                let at = (cache_row + position) * p.kv_pitch + kv_column;
                for (var i = 0u; i < QUADS / (1u + HALF); i++) {
                    let words = keys[at + i];
                    for (var q = 0u; q < QUERIES; q++) {
                        if HALF == 1u {
                            let query = q * QUADS + 2u * i;
                            products[q] += dot(queries[query], unpack(words.xy)) + dot(queries[query + 1u], unpack(words.zw));
                        } else {
                            products[q] += dot(queries[q * QUADS + i], bitcast<vec4f>(words));
                        }
                    }
                }
            } else if position + 1u == count {
                for (var q = 0u; q < QUERIES; q++) {
                    for (var i = 0u; i < QUADS; i++) {
                        products[q] += dot(queries[q * QUADS + i], new_key[i]);
                    }
                }
            }
            for (var q = 0u; q < QUERIES; q++) {
                let score = select(LOWEST, products[q], position < end);
                scores[q * TILE + t] = score;
                maxima[q * WG + lane] = max(maxima[q * WG + lane], score);
            }
        }
        for (var reach = WG / 2u; reach > 0u; reach /= 2u) {
            workgroupBarrier();
            if lane < reach {
                for (var q = 0u; q < QUERIES; q++) {
                    let at = q * WG + lane;
                    maxima[at] = max(maxima[at], maxima[at + reach]);
                }
            }
        }
        workgroupBarrier();
        for (var q = 0u; q < QUERIES; q++) {
            let tile_max = max(running_max[q], maxima[q * WG]);
            let rescale = exp(running_max[q] - tile_max);
            running_max[q] = tile_max;
            running_sum[q] *= rescale;
            sums[q] *= rescale;
            // Past the end the score is the lowest, and its weight 0.
            for (var t = lane; t < TILE; t += WG) {
                scores[q * TILE + t] = exp(scores[q * TILE + t] - tile_max);
            }
        }
        workgroupBarrier();
        let length = select(0u, min(TILE, end - tile), member < SHARES);
        for (var t = member; t < length; t += SHARES) {
            let position = tile + t;
            var value: vec4f;
            if position + 1u == count {
                value = new_value(r, kv_head, quad);
            } else if HALF == 1u {
                let words = values[(cache_row + position) * p.kv_pitch + kv_column + quad / 2u];
                value = unpack(select(words.xy, words.zw, (quad & 1u) == 1u));
            } else {
                value = bitcast<vec4f>(values[(cache_row + position) * p.kv_pitch + kv_column + quad]);
            }
            for (var q = 0u; q < QUERIES; q++) {
                let weight = scores[q * TILE + t];
                running_sum[q] += weight;
                sums[q] += weight * value;
            }
        }
    }

    let to = (r * p.parts + group.z) * p.out_pitch;
    for (var q = 0u; q < QUERIES; q++) {
        workgroupBarrier();
        meeting[lane] = sums[q];
        totals[lane] = running_sum[q];
        workgroupBarrier();
        if member == 0u {
            var sum = vec4f();
            var total = 0.0;
            for (var s = 0u; s < SHARES; s++) {
                sum += meeting[s * QUADS + quad];
                total += totals[s * QUADS + quad];
            }
            // A part without positions has a sum of zero.
            let result = sum / select(total, 1.0, total == 0.0);
            let at = to + (head0 + q) * D + 4u * quad;
            out[at] = result.x;
            out[at + 1u] = result.y;
            out[at + 2u] = result.z;
            out[at + 3u] = result.w;
            if SPLIT == 1u && quad == 0u {
                out[to + p.heads * D + head0 + q] = select(running_max[q] + log(total), LOWEST, total == 0.0);
            }
        }
    }
}
