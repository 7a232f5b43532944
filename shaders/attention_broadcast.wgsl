//! op: attention
//! out[r, h] = sum over j of softmax_j(scale * q[r, h] . key[j]) value[j], and appends key and value of row r.
//! rows:[m]  qkv:[m, (H + 2 G) D]  keys, values:[slots * context, G D]  out:[m, H D], H query heads, G key heads.
//! Row r attends to its slot's positions up to its own (causal) or to all of them. Positions before this batch come from
//! keys and values, positions of this batch from qkv, as the cache would have them: what another workgroup appends is never
//! read here, and how a sequence is cut into batches changes nothing.
//! For adapters that compute on the processor. There a load is one for each lane; newer llvmpipes (Mesa 26, not 22.3) make one of
//! it where all lanes read at one address. So a workgroup owns 16 rows of one query head; of a tile of positions each lane has
//! 8 keys, which it multiplies with queries that are the same for all lanes, and then 8 of the D outputs, of values that
//! are its own and weights that are the same for all. Online softmax: running maximum, running sum, rescaled outputs.
//! Sums have names: an array of them would be indexed in memory, for loops are not unrolled.
//! grid: ceil(m / 16), heads, 1

/// Elements per head, D. Mode: 64u, 8u, 80u, 128u
const D = 64u;
/// A row does not see later rows of its slot. Mode: 1u, 0u
const CAUSAL = 1u;
/// Keys and values are kept as halves (1), or as floats (0). Mode: 0u, 1u
const HALF = 0u;

/// Rows per workgroup.
const ROWS = 16u;
/// Eight outputs to a lane.
const WG = D / 8u;
/// Positions per tile, eight to a lane.
const TILE = 8u * WG;
/// Quads, and pairs of words in keys and values, of a head.
const QUADS = D / 4u;
const PAIRS = D / (2u + 2u * HALF);
const_assert D % 8u == 0u && 4u * ROWS * (TILE + WG) <= 16384u;
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

/// Of each lane, the highest score of every row.
var<workgroup> maxima: array<vec4f, WG * 4u>;
/// Of each position, the weight that every row gives it.
var<workgroup> weights: array<vec4f, TILE * 4u>;

/// Eight numbers of each of four rows.
struct Four {
    a: mat2x4f,
    b: mat2x4f,
    c: mat2x4f,
    d: mat2x4f,
}

/// Four neighbours of each of eight keys.
struct Eight {
    a: mat4x4f,
    b: mat4x4f,
}

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

/// A quad of four neighbouring keys; what lies beyond the last position is the last one's, and has no weight.
fn keys4(seen: Seen, position: u32, quad: u32) -> mat4x4f {
    let at = min(position + vec4u(0u, 1u, 2u, 3u), vec4u(seen.last));
    return mat4x4f(key4(seen, at.x, quad), key4(seen, at.y, quad), key4(seen, at.z, quad), key4(seen, at.w, quad));
}

/// A quad of a query times those of eight keys: a row times a matrix is its products with the columns.
fn product(q: vec4f, k: Eight) -> mat2x4f {
    return mat2x4f(q * k.a, q * k.b);
}

/// Adds the products of a quad of four queries.
fn add(sums: Four, at: vec4u, k: Eight) -> Four {
    return Four(
        sums.a + product(qkv[at.x], k),
        sums.b + product(qkv[at.y], k),
        sums.c + product(qkv[at.z], k),
        sums.d + product(qkv[at.w], k),
    );
}

/// A row's scores of eight positions, the lowest for those beyond `last`.
fn masked(sums: mat2x4f, position: u32, last: u32) -> mat2x4f {
    let at = position + vec4u(0u, 1u, 2u, 3u);
    return mat2x4f(
        select(vec4f(LOWEST), p.scale * sums[0], at <= vec4u(last)),
        select(vec4f(LOWEST), p.scale * sums[1], at + 4u <= vec4u(last)),
    );
}

fn scores(sums: Four, position: u32, last: vec4u) -> Four {
    return Four(
        masked(sums.a, position, last.x),
        masked(sums.b, position, last.y),
        masked(sums.c, position, last.z),
        masked(sums.d, position, last.w),
    );
}

fn highest(v: mat2x4f) -> f32 {
    let four = max(v[0], v[1]);
    return max(max(four.x, four.y), max(four.z, four.w));
}

fn highest4(f: Four) -> vec4f {
    return vec4f(highest(f.a), highest(f.b), highest(f.c), highest(f.d));
}

/// Leaves the weights of four rows, exp(score - highest), position by position.
fn keep(f: Four, peaks: vec4f, at: u32) {
    let a = mat2x4f(exp(f.a[0] - peaks.x), exp(f.a[1] - peaks.x));
    let b = mat2x4f(exp(f.b[0] - peaks.y), exp(f.b[1] - peaks.y));
    let c = mat2x4f(exp(f.c[0] - peaks.z), exp(f.c[1] - peaks.z));
    let d = mat2x4f(exp(f.d[0] - peaks.w), exp(f.d[1] - peaks.w));
    weights[at] = vec4f(a[0].x, b[0].x, c[0].x, d[0].x);
    weights[at + 4u] = vec4f(a[0].y, b[0].y, c[0].y, d[0].y);
    weights[at + 8u] = vec4f(a[0].z, b[0].z, c[0].z, d[0].z);
    weights[at + 12u] = vec4f(a[0].w, b[0].w, c[0].w, d[0].w);
    weights[at + 16u] = vec4f(a[1].x, b[1].x, c[1].x, d[1].x);
    weights[at + 20u] = vec4f(a[1].y, b[1].y, c[1].y, d[1].y);
    weights[at + 24u] = vec4f(a[1].z, b[1].z, c[1].z, d[1].z);
    weights[at + 28u] = vec4f(a[1].w, b[1].w, c[1].w, d[1].w);
}

/// The outputs of four rows, rescaled.
fn scaled(f: Four, by: vec4f) -> Four {
    return Four(f.a * by.x, f.b * by.y, f.c * by.z, f.d * by.w);
}

/// The outputs of four rows with a value added.
fn weighed(f: Four, by: vec4f, v: mat2x4f) -> Four {
    return Four(f.a + by.x * v, f.b + by.y * v, f.c + by.z * v, f.d + by.w * v);
}

fn write_row(row: u32, end: u32, column: u32, v: mat2x4f, sum: f32) {
    if row < end {
        out[row * p.out_pitch + column] = v[0] / sum;
        out[row * p.out_pitch + column + 1u] = v[1] / sum;
    }
}

fn write(row: u32, end: u32, column: u32, f: Four, sums: vec4f) {
    write_row(row, end, column, f.a, sums.x);
    write_row(row + 1u, end, column, f.b, sums.y);
    write_row(row + 2u, end, column, f.c, sums.z);
    write_row(row + 3u, end, column, f.d, sums.w);
}

/// Appends keys and values of the rows before `end`, eight elements to a lane.
fn append(row0: u32, end: u32, seen: Seen, lane: u32) {
    for (var row = row0; row < end; row++) {
        let to = seen.cache + rows[row].position * p.kv_pitch + lane * (PAIRS / WG);
        let key = row * p.qkv_pitch + seen.key + 2u * lane;
        let value = row * p.qkv_pitch + seen.value + 2u * lane;
        if HALF == 1u {
            keys[to] = halves(qkv[key]);
            keys[to + 1u] = halves(qkv[key + 1u]);
            values[to] = halves(qkv[value]);
            values[to + 1u] = halves(qkv[value + 1u]);
        } else {
            for (var i = 0u; i < 2u; i++) {
                keys[to + 2u * i] = bitcast<vec2<u32>>(qkv[key + i].xy);
                keys[to + 2u * i + 1u] = bitcast<vec2<u32>>(qkv[key + i].zw);
                values[to + 2u * i] = bitcast<vec2<u32>>(qkv[value + i].xy);
                values[to + 2u * i + 1u] = bitcast<vec2<u32>>(qkv[value + i].zw);
            }
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

/// Rows of one sequence, from `row0` to before `end`, at most 16.
fn attend(row0: u32, end: u32, head: u32, lane: u32) {
    let row = rows[row0];
    let kv_head = head / (p.heads / p.kv_heads);
    let key = (p.heads + kv_head) * QUADS;
    let cache = row.slot * p.context * p.kv_pitch + kv_head * PAIRS;
    var seen = Seen(rows[row.first].position, row.first, rows[end - 1u].position, cache, key, key + p.kv_heads * QUADS);
    // Row by row, what each sees last.
    let next = vec4u(0u, 1u, 2u, 3u);
    var last = row.position + next;
    var later = vec4u(4u);
    if CAUSAL == 0u {
        seen.last = last_position(row0);
        last = vec4u(seen.last);
        later = vec4u();
    }
    // The first query head of each group appends.
    if head % (p.heads / p.kv_heads) == 0u {
        append(row0, end, seen, lane);
    }
    // What lies beyond the last row is computed from it, and not written.
    let q0 = min(row0 + next, vec4u(end - 1u)) * p.qkv_pitch + head * QUADS;
    let q1 = min(row0 + 4u + next, vec4u(end - 1u)) * p.qkv_pitch + head * QUADS;
    let q2 = min(row0 + 8u + next, vec4u(end - 1u)) * p.qkv_pitch + head * QUADS;
    let q3 = min(row0 + 12u + next, vec4u(end - 1u)) * p.qkv_pitch + head * QUADS;

    var peaks0 = vec4f(LOWEST);
    var peaks1 = vec4f(LOWEST);
    var peaks2 = vec4f(LOWEST);
    var peaks3 = vec4f(LOWEST);
    var sums0 = vec4f();
    var sums1 = vec4f();
    var sums2 = vec4f();
    var sums3 = vec4f();
    var out0 = Four();
    var out1 = Four();
    var out2 = Four();
    var out3 = Four();
    for (var tile = 0u; tile <= seen.last; tile += TILE) {
        let position = tile + 8u * lane;
        var dots0 = Four();
        var dots1 = Four();
        var dots2 = Four();
        var dots3 = Four();
        for (var quad = 0u; quad < QUADS; quad++) {
            let k = Eight(keys4(seen, position, quad), keys4(seen, position + 4u, quad));
            dots0 = add(dots0, q0 + quad, k);
            dots1 = add(dots1, q1 + quad, k);
            dots2 = add(dots2, q2 + quad, k);
            dots3 = add(dots3, q3 + quad, k);
        }
        dots0 = scores(dots0, position, last);
        dots1 = scores(dots1, position, last + later);
        dots2 = scores(dots2, position, last + 2u * later);
        dots3 = scores(dots3, position, last + 3u * later);
        maxima[4u * lane] = highest4(dots0);
        maxima[4u * lane + 1u] = highest4(dots1);
        maxima[4u * lane + 2u] = highest4(dots2);
        maxima[4u * lane + 3u] = highest4(dots3);
        workgroupBarrier();
        let before0 = peaks0;
        let before1 = peaks1;
        let before2 = peaks2;
        let before3 = peaks3;
        for (var other = 0u; other < WG; other++) {
            peaks0 = max(peaks0, maxima[4u * other]);
            peaks1 = max(peaks1, maxima[4u * other + 1u]);
            peaks2 = max(peaks2, maxima[4u * other + 2u]);
            peaks3 = max(peaks3, maxima[4u * other + 3u]);
        }
        keep(dots0, peaks0, 32u * lane);
        keep(dots1, peaks1, 32u * lane + 1u);
        keep(dots2, peaks2, 32u * lane + 2u);
        keep(dots3, peaks3, 32u * lane + 3u);
        sums0 *= exp(before0 - peaks0);
        sums1 *= exp(before1 - peaks1);
        sums2 *= exp(before2 - peaks2);
        sums3 *= exp(before3 - peaks3);
        out0 = scaled(out0, exp(before0 - peaks0));
        out1 = scaled(out1, exp(before1 - peaks1));
        out2 = scaled(out2, exp(before2 - peaks2));
        out3 = scaled(out3, exp(before3 - peaks3));
        // Weights are next written behind the barrier of the next tile.
        workgroupBarrier();
        for (var t = 0u; t < min(TILE, seen.last + 1u - tile); t++) {
            let v = mat2x4f(value4(seen, tile + t, 2u * lane), value4(seen, tile + t, 2u * lane + 1u));
            let weight0 = weights[4u * t];
            let weight1 = weights[4u * t + 1u];
            let weight2 = weights[4u * t + 2u];
            let weight3 = weights[4u * t + 3u];
            sums0 += weight0;
            sums1 += weight1;
            sums2 += weight2;
            sums3 += weight3;
            out0 = weighed(out0, weight0, v);
            out1 = weighed(out1, weight1, v);
            out2 = weighed(out2, weight2, v);
            out3 = weighed(out3, weight3, v);
        }
    }
    let column = head * QUADS + 2u * lane;
    write(row0, end, column, out0, sums0);
    write(row0 + 4u, end, column, out1, sums1);
    write(row0 + 8u, end, column, out2, sums2);
    write(row0 + 12u, end, column, out3, sums3);
}

@compute @workgroup_size(WG)
fn attention_broadcast(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
    let end = min((group.x + 1u) * ROWS, p.m);
    // Of a batch, a sequence's rows after the other's.
    for (var row = group.x * ROWS; row < end; row++) {
        let first = row;
        while row + 1u < end && rows[row + 1u].first == rows[first].first {
            row += 1u;
        }
        attend(first, row + 1u, group.y, lane);
    }
}
