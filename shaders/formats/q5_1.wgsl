/// Where a group of eight parts begins: a word of scale and minimum each, a word of fifth bits each, then a quad of words each.
fn group_of(row: u32, block: u32) -> u32 {
    return row * p.w_pitch + block / 8u * 12u;
}

/// The scale and the minimum of a part.
fn scale_of(group: u32, part: u32) -> vec2f {
    return unpack2x16float(w[group + part / 4u][part % 4u]);
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
    let bits = w[group + 2u + part / 4u][part % 4u];
    let word = w[group + 4u + part][quad % 4u];
    let scale = scale_of(group, part);
    return scale.x * numbers(word >> (quad & 4u), bits >> (quad % 8u)) + scale.y;
}

/// The product of 32 neighbours of a row with `x`.
fn dot32(row: u32, block: u32, x: ptr<function, array<vec4f, 8>>) -> f32 {
    let group = group_of(row, block);
    let part = block % 8u;
    let bits = w[group + 2u + part / 4u][part % 4u];
    let words = w[group + 4u + part];
    var sum = vec4f();
    var of_x = vec4f();
    for (var i = 0u; i < 4u; i++) {
        sum += (*x)[i] * numbers(words[i], bits >> i);
        sum += (*x)[i + 4u] * numbers(words[i] >> 4u, bits >> (i + 4u));
        of_x += (*x)[i] + (*x)[i + 4u];
    }
    return dot(scale_of(group, part), vec2f(dot(sum, vec4f(1.0)), dot(of_x, vec4f(1.0))));
}
