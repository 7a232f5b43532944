/// Where a group of eight parts begins: a quad of words of scales, a word of fifth bits of each part, then a quad each.
fn group_of(row: u32, block: u32) -> u32 {
    return row * p.w_pitch + block / 8u * 11u;
}

/// The scale of a part, and what is subtracted: six bits each of the first four parts are the lower ones of eight bytes, those
/// of the others are the nibbles of the last four bytes, and above them the upper two bits of the first eight.
fn scale_of(group: u32, part: u32) -> vec2f {
    let words = w[group];
    let shift = 8u * (part % 4u);
    let first = vec2u(words.y, words.z) >> vec2u(shift);
    let last = vec2u(words.w) >> (shift + vec2u(0u, 4u));
    let six = select(first & vec2u(63u), last & vec2u(15u) | (first >> vec2u(2u)) & vec2u(48u), part >= 4u);
    return unpack2x16float(words.x) * vec2f(six);
}

/// Four numbers, of the lower nibbles of one word and the lowest bits of the bytes of another.
fn numbers(nibbles: u32, bits: u32) -> vec4f {
    let bytes = nibbles & 0x0f0f0f0fu | (bits & 0x01010101u) << 4u;
    return vec4f(vec4i((vec4u(bytes) >> vec4u(0u, 8u, 16u, 24u)) & vec4u(31u)));
}

/// Four neighbours of a row.
fn weight4(row: u32, quad: u32) -> vec4f {
    let group = group_of(row, quad / 8u);
    let part = quad / 8u % 8u;
    let bits = w[group + 1u + part / 4u][part % 4u];
    let word = w[group + 3u + part][quad % 4u];
    let scale = scale_of(group, part);
    return scale.x * numbers(word >> (quad & 4u), bits >> (quad % 8u)) - scale.y;
}

/// The product of 32 neighbours of a row with `x`.
fn dot32(row: u32, block: u32, x: ptr<function, array<vec4f, 8>>) -> f32 {
    let group = group_of(row, block);
    let part = block % 8u;
    let bits = w[group + 1u + part / 4u][part % 4u];
    let words = w[group + 3u + part];
    var sum = vec4f();
    var of_x = vec4f();
    for (var i = 0u; i < 4u; i++) {
        sum += (*x)[i] * numbers(words[i], bits >> i);
        sum += (*x)[i + 4u] * numbers(words[i] >> 4u, bits >> (i + 4u));
        of_x += (*x)[i] + (*x)[i + 4u];
    }
    return dot(scale_of(group, part), vec2f(dot(sum, vec4f(1.0)), -dot(of_x, vec4f(1.0))));
}
