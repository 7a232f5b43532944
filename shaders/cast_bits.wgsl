//! op: cast
//! out[r, i] = x[r, i] in another type of number: f32 to f16 (KIND 0), f16 to f32 (1), bf16 to f32 (2).
//! x:[m, n]  out:[m, n]; halves lie two to a word, and rows may start at a half.
//! To f16 it rounds to the nearest, ties to even, and beyond 65519.99 to infinity; to f32 every half is exact. NaN stay NaN,
//! quiet ones. All of it in integers: floats may be flushed, and the rounding of pack2x16float is anybody's.
//! (`cast` alone is a reserved word.)
//! An invocation writes one of the words of out.
//! grid: ceil(words / WG)

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;
/// 0: f32 to f16, 1: f16 to f32, 2: bf16 to f32. Mode: 0u, 1u, 2u
const KIND = 0u;

/// Elements in a word of out.
const OWN = select(1u, 2u, KIND == 0u);

struct Params {
    /// Rows.
    m: u32,
    /// Columns.
    n: u32,
    /// Row pitch of x, in elements.
    x_pitch: u32,
    /// Row pitch of out, in elements.
    out_pitch: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

fn to_half(bits: u32) -> u32 {
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude > 0x7f800000u {
        return sign | 0x7e00u | ((magnitude >> 13u) & 0x3ffu);
    }
    // From the midpoint of the largest half and 2^16 on.
    if magnitude >= 0x477ff000u {
        return sign | 0x7c00u;
    }
    let exponent = magnitude >> 23u;
    // Below half of the smallest half, 2^-25, lies zero; 2^-25 itself is a tie, and goes to zero as well.
    if exponent < 102u {
        return sign;
    }
    let significand = 0x800000u | (magnitude & 0x7fffffu);
    // Bits that are lost: 13 of a normal half, one more for every power of two below 2^-14.
    let lost = 13u + 113u - min(exponent, 113u);
    let kept = significand >> lost;
    let rest = significand & ((1u << lost) - 1u);
    let tie = 1u << (lost - 1u);
    let up = select(0u, 1u, rest > tie || (rest == tie && (kept & 1u) == 1u));
    // The leading bit of a normal significand adds one to the exponent below it; a carry adds one more.
    let base = (max(exponent, 113u) - 113u) << 10u;
    return sign | (base + kept + up);
}

fn from_half(half: u32) -> u32 {
    let sign = (half & 0x8000u) << 16u;
    let exponent = (half >> 10u) & 0x1fu;
    let fraction = half & 0x3ffu;
    if exponent == 31u {
        return sign | 0x7f800000u | (fraction << 13u) | select(0u, 0x400000u, fraction != 0u);
    }
    if exponent > 0u {
        return sign | ((exponent + 112u) << 23u) | (fraction << 13u);
    }
    if fraction == 0u {
        return sign;
    }
    // fraction * 2^-24: its leading bit is the exponent, what follows the fraction.
    let leading = firstLeadingBit(fraction);
    return sign | ((leading + 103u) << 23u) | ((fraction << (23u - leading)) & 0x7fffffu);
}

fn from_bfloat(bits: u32) -> u32 {
    return (bits << 16u) | select(0u, 0x400000u, (bits & 0x7fffu) > 0x7f80u);
}

/// Element `at` of out, counted with its tails.
fn element(at: u32) -> u32 {
    let row = at / p.out_pitch;
    let column = at % p.out_pitch;
    if row >= p.m || column >= p.n {
        return 0u;
    }
    let at_x = row * p.x_pitch + column;
    if KIND == 0u {
        return to_half(x[at_x]);
    }
    let half = (x[at_x / 2u] >> (16u * (at_x % 2u))) & 0xffffu;
    if KIND == 1u {
        return from_half(half);
    }
    return from_bfloat(half);
}

@compute @workgroup_size(WG)
fn cast_bits(
    @builtin(global_invocation_id) id: vec3u,
    @builtin(num_workgroups) groups: vec3u,
) {
    let word = id.y * groups.x * WG + id.x;
    if word * OWN >= p.m * p.out_pitch {
        return;
    }
    var bits = element(word * OWN);
    if KIND == 0u {
        bits |= element(word * OWN + 1u) << 16u;
    }
    out[word] = bits;
}
