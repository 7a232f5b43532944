//! op: attention_decode
//! out[r, h] = sum over j of softmax_j(scale * q[r, h] . key[j]) value[j] for one new row r of each sequence, whose query and
//! key are normed and turned on the way, and whose key and value are appended.
//! rows:[m]  qkv:[m, (H + 2 G) D]  table:[positions, R / 2]  weight:[H + G, D]  keys, values:[slots * context, G D]
//! out:[m, H D], or [m, parts, H D + H]: of each part its own softmax and, last, the logarithms of its sums.
//! A workgroup owns a row, QUERIES heads that share keys, and a part of the positions: a key comes from memory once for all
//! of them. Of a query, key and value each of LANES neighbours has eight elements, so that they read neighbouring words; their
//! products meet in workgroup memory. Online softmax.
//! grid: m, groups, parts

/// Invocations per workgroup, or as many as its queries have lanes. Tune: 8u, 16u, 32u, 64u, 128u
const WG = 64u;
/// Scores of a tile per invocation, if there is room for them. Tune: 1u, 2u, 4u
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

/// Invocations that share a query and its four positions.
const LANES = D / 8u;
const SIZE = max(WG, LANES * QUERIES);
/// Fours of positions that are read at a time.
const SHARES = SIZE / (LANES * QUERIES);
/// Invocations whose sums meet at the end.
const MEETING = select(SIZE, 1u, SHARES == 1u);
/// Fours of positions to a tile: as many as 16 KiB of workgroup memory have room for. Two arrays end within 16 bytes, whose
/// rest, six words at most, belongs to nobody.
const ROOM = (4090u - 9u * MEETING - QUERIES - 4u * QUERIES * LANES) / (4u * QUERIES * (LANES + 1u));
const TILE = min(max(SIZE * EACH / (4u * QUERIES), 1u), ROOM);
/// One more, so that neighbours write to different banks.
const PITCH = TILE + 1u;
const_assert D % 8u == 0u && TILE >= 1u;
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

/// Eight elements of a head.
struct Eight { a: vec4f, b: vec4f }

/// Of each query the products of its lanes with the keys of a tile.
var<workgroup> partials: array<vec4f, QUERIES * LANES * PITCH>;
/// Scores of a tile, then their exps.
var<workgroup> scores: array<vec4f, QUERIES * TILE>;
/// Of each query the highest score so far, `ordered`.
var<workgroup> peaks: array<atomic<u32>, QUERIES>;
var<workgroup> meeting: array<Eight, MEETING>;
var<workgroup> totals: array<f32, MEETING>;

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

/// Two quads of a head of row r, normed and turned.
fn eight(r: u32, head: u32, quad_a: u32, quad_b: u32, position: u32) -> Eight {
    var scale = 1.0;
    if NORM == 1u {
        scale = head_scale(r * p.qkv_pitch + head * D);
    }
    return Eight(turned4(r, head, quad_a, scale, position), turned4(r, head, quad_b, scale, position));
}

/// Two floats as halves. What rounds to more than the largest half is no number, for WGSL does not say what it becomes, and
/// AMD's cuts it down to that half.
fn pair(v: vec2f) -> u32 {
    let beyond = select(vec2u(), vec2u(0x7c00u, 0x7c000000u), abs(v) >= vec2f(65520.0));
    return pack2x16float(v) | beyond.x | beyond.y;
}

/// Four floats as two words of halves.
fn pack(v: vec4f) -> vec2u {
    return vec2u(pair(v.xy), pair(v.zw));
}

/// Two words of halves as four floats.
fn unpack(words: vec2u) -> vec4f {
    return vec4f(unpack2x16float(words.x), unpack2x16float(words.y));
}

/// As the cache has it.
fn kept(v: vec4f) -> vec4f {
    if HALF == 1u {
        return unpack(pack(v));
    }
    return v;
}

/// A quad of the value of row r, as the cache has it.
fn value4(r: u32, kv_head: u32, quad: u32) -> vec4f {
    let at = r * p.qkv_pitch + (p.heads + p.kv_heads + kv_head) * D + 4u * quad;
    return kept(vec4f(qkv[at], qkv[at + 1u], qkv[at + 2u], qkv[at + 3u]));
}

/// A lane's elements of a key, from its first 16 bytes.
fn key8(at: u32) -> Eight {
    let words = keys[at];
    if HALF == 1u {
        return Eight(unpack(words.xy), unpack(words.zw));
    }
    return Eight(bitcast<vec4f>(words), bitcast<vec4f>(keys[at + LANES]));
}

/// A lane's elements of a value, from its first 16 bytes.
fn value8(at: u32) -> Eight {
    let words = values[at];
    if HALF == 1u {
        return Eight(unpack(words.xy), unpack(words.zw));
    }
    return Eight(bitcast<vec4f>(words), bitcast<vec4f>(values[at + LANES]));
}

fn dot8(x: Eight, y: Eight) -> f32 {
    return dot(x.a, y.a) + dot(x.b, y.b);
}

/// The products of a query and four keys of the tile.
fn partial_sum(q: u32, four: u32) -> vec4f {
    var sum = vec4f();
    for (var part = 0u; part < LANES; part++) {
        sum += partials[(q * LANES + part) * PITCH + four];
    }
    return sum;
}

/// The bits of `v` as a number that is larger where v is, for a maximum of atomics.
fn ordered(v: f32) -> u32 {
    let bits = bitcast<u32>(v);
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

fn unordered(bits: u32) -> f32 {
    return bitcast<f32>(select(~bits, bits & 0x7fffffffu, (bits >> 31u) == 1u));
}

@compute @workgroup_size(SIZE)
fn attention_decode(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let r = group.x;
    let row = rows[r];
    let head0 = group.y * QUERIES;
    let kv_head = head0 / (p.heads / p.kv_heads);
    // Where the heads of a row of the cache begin, in 16 bytes, and the rows of this slot.
    let kv_column = kv_head * (D / 4u) / (1u + HALF);
    let cache_row = row.slot * p.context;
    let share = lane / (LANES * QUERIES);
    let q = lane / LANES % QUERIES;
    let part = lane % LANES;
    let head = head0 + q;
    // A lane's two quads are 16 bytes of halves, or 16 of floats of each half of the head.
    let quad_a = part * (1u + HALF);
    let quad_b = select(part + LANES, quad_a + 1u, HALF == 1u);

    let query = eight(r, head, quad_a, quad_b, row.position);
    var new_key = eight(r, p.heads + kv_head, quad_a, quad_b, row.position);
    new_key = Eight(kept(new_key.a), kept(new_key.b));
    let new_value = Eight(value4(r, kv_head, quad_a), value4(r, kv_head, quad_b));
    // One workgroup of each group of heads appends.
    if group.z == 0u && head0 % (p.heads / p.kv_heads) == 0u && lane < LANES {
        let to = (cache_row + row.position) * p.kv_pitch + kv_column + part;
        if HALF == 1u {
            keys[to] = vec4u(pack(new_key.a), pack(new_key.b));
            values[to] = vec4u(pack(new_value.a), pack(new_value.b));
        } else {
            keys[to] = bitcast<vec4u>(new_key.a);
            keys[to + LANES] = bitcast<vec4u>(new_key.b);
            values[to] = bitcast<vec4u>(new_value.a);
            values[to + LANES] = bitcast<vec4u>(new_value.b);
        }
    }

    // Positions before this row's own are in the cache; its own, of the last part, is here.
    let count = row.position + 1u;
    var length = count;
    if SPLIT == 1u {
        length = (count + p.parts - 1u) / p.parts;
    }
    let begin = group.z * length;
    let own = begin < count && begin + length >= count;
    let end = min(begin + length, count - 1u);

    let to_partials = (q * LANES + part) * PITCH;
    var highest = LOWEST;
    var sum = 0.0;
    var sums = Eight();
    if share == 0u {
        partials[to_partials] = vec4f(p.scale * dot8(query, new_key));
    }
    workgroupBarrier();
    if own {
        highest = partial_sum(q, 0u).x;
        if share == 0u {
            sum = 1.0;
            sums = new_value;
        }
    }
    if share == 0u && part == 0u {
        atomicStore(&peaks[q], ordered(highest));
    }
    let next = vec4u(0u, 1u, 2u, 3u);
    for (var tile = begin; tile < end; tile += 4u * TILE) {
        // Partials have been read, and scores of the tile before.
        workgroupBarrier();
        let fours = min(TILE, (end - tile + 3u) / 4u);
        let first = select(fours, share, share < SHARES);
        for (var four = first; four < fours; four += SHARES) {
            // Behind the last it is the last once more, without a weight.
            let at = (cache_row + min(tile + 4u * four + next, vec4u(end - 1u))) * p.kv_pitch + kv_column + part;
            partials[to_partials + four] = p.scale * vec4f(
                dot8(query, key8(at.x)),
                dot8(query, key8(at.y)),
                dot8(query, key8(at.z)),
                dot8(query, key8(at.w)),
            );
        }
        workgroupBarrier();
        for (var i = lane; i < QUERIES * TILE; i += SIZE) {
            let four = i % TILE;
            if four < fours {
                let here = tile + 4u * four + next < vec4u(end);
                let score = select(vec4f(LOWEST), partial_sum(i / TILE, four), here);
                scores[i] = score;
                atomicMax(&peaks[i / TILE], ordered(max(max(score.x, score.y), max(score.z, score.w))));
            }
        }
        workgroupBarrier();
        let peak = unordered(atomicLoad(&peaks[q]));
        let rescale = exp(highest - peak);
        highest = peak;
        sum *= rescale;
        sums.a *= rescale;
        sums.b *= rescale;
        for (var i = lane; i < QUERIES * TILE; i += SIZE) {
            scores[i] = exp(scores[i] - unordered(atomicLoad(&peaks[i / TILE])));
        }
        workgroupBarrier();
        for (var four = first; four < fours; four += SHARES) {
            let at = (cache_row + min(tile + 4u * four + next, vec4u(end - 1u))) * p.kv_pitch + kv_column + part;
            let weights = scores[q * TILE + four];
            let v0 = value8(at.x);
            let v1 = value8(at.y);
            let v2 = value8(at.z);
            let v3 = value8(at.w);
            sum += dot(weights, vec4f(1.0));
            sums.a += weights.x * v0.a + weights.y * v1.a + weights.z * v2.a + weights.w * v3.a;
            sums.b += weights.x * v0.b + weights.y * v1.b + weights.z * v2.b + weights.w * v3.b;
        }
    }

    if SHARES > 1u {
        meeting[lane] = sums;
        totals[lane] = sum;
        workgroupBarrier();
    }
    if share == 0u {
        for (var s = lane + LANES * QUERIES; s < SHARES * LANES * QUERIES; s += LANES * QUERIES) {
            sums.a += meeting[s].a;
            sums.b += meeting[s].b;
            sum += totals[s];
        }
        // A part without positions has a sum of zero.
        let divisor = select(sum, 1.0, sum == 0.0);
        let to = (r * p.parts + group.z) * p.out_pitch;
        for (var i = 0u; i < 4u; i++) {
            out[to + head * D + 4u * quad_a + i] = sums.a[i] / divisor;
            out[to + head * D + 4u * quad_b + i] = sums.b[i] / divisor;
        }
        if SPLIT == 1u && part == 0u {
            out[to + p.heads * D + head] = select(highest + log(sum), LOWEST, sum == 0.0);
        }
    }
}
