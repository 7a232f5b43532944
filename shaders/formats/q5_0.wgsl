/// Where a group of eight parts begins: their scales, a word of fifth bits each, then a quad of words each.
fn group_of(row: u32, block: u32) -> u32 {
    return row * p.w_pitch + block / 8u * 11u;
}

/// The scale of a part: half a word.
fn scale_of(group: u32, part: u32) -> f32 {
    let pair = unpack2x16float(w[group][part / 2u]);
    return select(pair.x, pair.y, (part & 1u) == 1u);
}

/// Four numbers, signed, of the lower nibbles of one word and the lowest bits of the bytes of another.
fn numbers(nibbles: u32, bits: u32) -> vec4f {
    let bytes = bitcast<i32>((nibbles & 0x0f0f0f0fu) << 3u | (bits & 0x01010101u) << 7u);
    return vec4f((vec4i(bytes) << vec4u(24u, 16u, 8u, 0u)) >> vec4u(27u));
}

/// Four neighbours of a row.
fn weight4(row: u32, quad: u32) -> vec4f {
    let group = group_of(row, quad / 8u);
    let part = quad / 8u % 8u;
    let bits = w[group + 1u + part / 4u][part % 4u];
    let word = w[group + 3u + part][quad % 4u];
    return scale_of(group, part) * numbers(word >> (quad & 4u), bits >> (quad % 8u));
}

/// The product of 32 neighbours of a row with `x`.
fn dot32(row: u32, block: u32, x: ptr<function, array<vec4f, 8>>) -> f32 {
    let group = group_of(row, block);
    let part = block % 8u;
    let bits = w[group + 1u + part / 4u][part % 4u];
    let words = w[group + 3u + part];
    var sum = vec4f();
    for (var i = 0u; i < 4u; i++) {
        sum += (*x)[i] * numbers(words[i], bits >> i);
        sum += (*x)[i + 4u] * numbers(words[i] >> 4u, bits >> (i + 4u));
    }
    return scale_of(group, part) * dot(sum, vec4f(1.0));
}
