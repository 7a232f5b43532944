//! op: sample
//! out[r] = (a token drawn from softmax(x[r] / temperature), how many x[r, i] are NaN or infinite).
//! rows:[m]  x:[m, n]  out:[m, 2].   Then, if so asked, rows[r].token = that token and rows[r].position += 1: the rows of the
//! next step, without the host.   The draw is the first candidate at which the cumulative probability exceeds a uniform
//! that depends on seed, slot and position of the new token alone. Candidates are all tokens by id, or the k largest logits,
//! largest first, cut to the likeliest until the probability of those before reaches top_p; or the largest alone, the lowest id
//! on a tie.
//! A workgroup owns a row. Logits are compared as integers that order them, so which are candidates is exact; where one is
//! NaN or infinite, a token comes out too, and means nothing. The sums of weights are serial within a block of ids and over the blocks, so
//! they never descend, and the same row draws the same token each time.
//! grid: m

/// Invocations per workgroup. Tune: 64u, 128u, 256u
const WG = 256u;
/// Candidates are 0: all, 1: the k largest logits, 2: the largest. Mode: 0u, 1u, 2u
const CANDIDATES = 0u;
/// Rows become those of the next step. Mode: 0u, 1u
const ADVANCE = 0u;

/// The most candidates of a top-k.
const MOST = 64u;
/// Values of a digit of a key.
const DIGITS = 256u;
/// Values of half a digit.
const HALF = 16u;
const_assert WG >= MOST;

/// One row of a batch: which token, whose sequence, where in it, and the row at which its sequence begins in this batch.
struct Row { token: u32, slot: u32, position: u32, first: u32 }

struct Params {
    /// Rows.
    m: u32,
    /// Columns.
    n: u32,
    /// Row pitch of x, in elements.
    x_pitch: u32,
    /// Row pitch of out, in words.
    out_pitch: u32,
    /// The seed, lower half.
    seed_low: u32,
    /// The seed, upper half.
    seed_high: u32,
    /// Candidates of a top-k, at most 64.
    k: u32,
    /// Share of the probability that the candidates of a top-k are cut to.
    top_p: f32,
    /// Above 0.
    temperature: f32,
    /// Half the difference to the largest logit below which a weight is none, because its exp would not be normal.
    lowest: f32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> rows: array<Row>;
@group(0) @binding(2) var<storage, read_write> out: array<u32>;

var<workgroup> highest: atomic<u32>;
var<workgroup> faults: atomic<u32>;
var<workgroup> least: atomic<u32>;
var<workgroup> sums: array<f32, WG>;
var<workgroup> point: f32;
var<workgroup> before: f32;
var<workgroup> chosen: u32;
var<workgroup> counts: array<u32, WG>;
var<workgroup> bins: array<atomic<u32>, DIGITS>;
var<workgroup> coarse: array<u32, HALF>;
var<workgroup> digit: u32;
var<workgroup> left: u32;
var<workgroup> taken: atomic<u32>;
var<workgroup> keys: array<u32, MOST>;
var<workgroup> ids: array<u32, MOST>;
var<workgroup> sorted_keys: array<u32, MOST>;
var<workgroup> sorted_ids: array<u32, MOST>;

/// Orders floats by their bits; -0 and 0 are one.
fn order(bits: u32) -> u32 {
    if bits >= 0x80000000u {
        return 0x80000000u - (bits - 0x80000000u);
    }
    return bits + 0x80000000u;
}

/// The float of a key.
fn value(key: u32) -> f32 {
    return bitcast<f32>(select(0x80000000u - key + 0x80000000u, key - 0x80000000u, key >= 0x80000000u));
}

/// exp((logit - largest) / temperature). Halves, because a difference of finite floats may not be finite.
fn weight(key: u32, largest: f32) -> f32 {
    let half = 0.5 * value(key) - 0.5 * largest;
    if half < p.lowest {
        return 0.0;
    }
    return exp(2.0 * (half / p.temperature));
}

/// In [0, 1), in steps of 2^-24: pcg3d of seed, position and slot. The host computes the same.
fn uniform_of(position: u32, slot: u32) -> f32 {
    var v = vec3u(p.seed_low ^ position, p.seed_high ^ slot, ((position << 16u) | (position >> 16u)) ^ ~slot);
    v = v * 1664525u + 1013904223u;
    v.x += v.y * v.z;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v = v ^ (v >> vec3u(16u));
    v.x += v.y * v.z;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    return f32(v.z >> 8u) * 5.9604644775390625e-8;
}

/// Draws from all tokens; the answer is the chosen invocation's. Each has a block of ids.
fn draw_from_all(begin: u32, lane: u32, u: f32, largest: f32) -> u32 {
    let block = (p.n + WG - 1u) / WG;
    let first = min(lane * block, p.n);
    let end = min(first + block, p.n);
    var sum = 0.0;
    for (var i = first; i < end; i++) {
        sum += weight(order(x[begin + i]), largest);
    }
    sums[lane] = sum;
    workgroupBarrier();
    if lane == 0u {
        var total = 0.0;
        for (var i = 0u; i < WG; i++) {
            total += sums[i];
        }
        let at = u * total;
        var reached = 0.0;
        var holder: u32;
        var below: f32;
        // Rounding may leave the point past the end: the last block with any weight has it then.
        for (var i = 0u; i < WG && reached <= at; i++) {
            if sums[i] > 0.0 {
                holder = i;
                below = reached;
            }
            reached += sums[i];
        }
        point = at;
        before = below;
        chosen = holder;
    }
    workgroupBarrier();
    var id = first;
    if lane == chosen {
        var reached = before;
        for (var i = first; i < end && reached <= point; i++) {
            let w = weight(order(x[begin + i]), largest);
            if w > 0.0 {
                id = i;
            }
            reached += w;
        }
    }
    return id;
}

/// Finds the candidates of a top-k and sorts them.
fn find_candidates(begin: u32, lane: u32, count: u32) {
    // The key of the last candidate, digit by digit: it is the largest that `remaining` keys of those with the digits so
    // far reach.
    var remaining = count;
    var last = 0u;
    var known = 0u;
    for (var round = 0u; round < 4u; round++) {
        let shift = 24u - 8u * round;
        for (var i = lane; i < DIGITS; i += WG) {
            atomicStore(&bins[i], 0u);
        }
        workgroupBarrier();
        for (var i = lane; i < p.n; i += WG) {
            let key = order(x[begin + i]);
            if (key & known) == last {
                atomicAdd(&bins[(key >> shift) & 255u], 1u);
            }
        }
        workgroupBarrier();
        if lane < HALF {
            var sum = 0u;
            for (var i = 0u; i < HALF; i++) {
                sum += atomicLoad(&bins[lane * HALF + i]);
            }
            coarse[lane] = sum;
        }
        workgroupBarrier();
        for (var i = lane; i < DIGITS; i += WG) {
            let upper = i / HALF + 1u;
            var above = 0u;
            for (var j = i + 1u; j < upper * HALF; j++) {
                above += atomicLoad(&bins[j]);
            }
            for (var j = upper; j < HALF; j++) {
                above += coarse[j];
            }
            if above < remaining && above + atomicLoad(&bins[i]) >= remaining {
                digit = i;
                left = remaining - above;
            }
        }
        workgroupBarrier();
        last |= digit << shift;
        known |= 255u << shift;
        remaining = left;
    }
    // Of those equal to the last, the lowest ids.
    let block = (p.n + WG - 1u) / WG;
    let first = min(lane * block, p.n);
    let end = min(first + block, p.n);
    var ties = 0u;
    for (var i = first; i < end; i++) {
        ties += u32(order(x[begin + i]) == last);
    }
    counts[lane] = ties;
    workgroupBarrier();
    var tie = 0u;
    for (var i = 0u; i < lane; i++) {
        tie += counts[i];
    }
    for (var i = first; i < end; i++) {
        let key = order(x[begin + i]);
        if key > last {
            let to = atomicAdd(&taken, 1u);
            keys[to] = key;
            ids[to] = i;
        } else if key == last {
            if tie < remaining {
                keys[count - remaining + tie] = key;
                ids[count - remaining + tie] = i;
            }
            tie++;
        }
    }
    workgroupBarrier();
    if lane < count {
        var rank = 0u;
        for (var i = 0u; i < count; i++) {
            rank += u32(keys[i] > keys[lane] || (keys[i] == keys[lane] && ids[i] < ids[lane]));
        }
        sorted_keys[rank] = keys[lane];
        sorted_ids[rank] = ids[lane];
    }
    workgroupBarrier();
}

/// Draws from the candidates of a top-k, whose weights are in `sums`.
fn draw_from_candidates(u: f32, count: u32) -> u32 {
    var total = 0.0;
    for (var i = 0u; i < count; i++) {
        total += sums[i];
    }
    var mass = sums[0];
    var kept = 1u;
    while kept < count && mass < p.top_p * total {
        mass += sums[kept];
        kept++;
    }
    let at = u * mass;
    var reached = 0.0;
    var id: u32;
    for (var i = 0u; i < kept && reached <= at; i++) {
        id = sorted_ids[i];
        reached += sums[i];
    }
    return id;
}

@compute @workgroup_size(WG)
fn sample(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let r = group.y * groups.x + group.x;
    if r >= p.m {
        return;
    }
    let begin = r * p.x_pitch;
    if lane == 0u {
        atomicStore(&highest, 0u);
        atomicStore(&faults, 0u);
        atomicStore(&least, p.n - 1u);
        atomicStore(&taken, 0u);
    }
    workgroupBarrier();
    var key: u32;
    var first = p.n - 1u;
    var fault = 0u;
    for (var i = lane; i < p.n; i += WG) {
        let bits = x[begin + i];
        let own = order(bits);
        if own > key {
            key = own;
            first = i;
        }
        fault += u32((bits & 0x7f800000u) == 0x7f800000u);
    }
    atomicMax(&highest, key);
    atomicAdd(&faults, fault);
    workgroupBarrier();
    let largest = value(atomicLoad(&highest));

    // The new token is one position on.
    let u = uniform_of(rows[r].position + 1u, rows[r].slot);
    var id: u32;
    var writer = 0u;
    if CANDIDATES == 2u {
        if key == atomicLoad(&highest) {
            atomicMin(&least, first);
        }
        workgroupBarrier();
        id = atomicLoad(&least);
    } else if CANDIDATES == 0u {
        id = draw_from_all(begin, lane, u, largest);
        writer = chosen;
    } else {
        let count = min(p.k, p.n);
        find_candidates(begin, lane, count);
        if lane < count {
            sums[lane] = weight(sorted_keys[lane], largest);
        }
        workgroupBarrier();
        if lane == 0u {
            id = draw_from_candidates(u, count);
        }
    }
    if lane == writer {
        let at = r * p.out_pitch;
        out[at] = id;
        out[at + 1u] = atomicLoad(&faults);
        // The tail of a row is zero.
        for (var i = 2u; i < p.out_pitch; i++) {
            out[at + i] = 0u;
        }
        if ADVANCE == 1u {
            rows[r].token = id;
            rows[r].position += 1u;
        }
    }
}
