/// Where a group of eight parts begins: their scales, then two quads of words each.
fn group_of(row: u32, block: u32) -> u32 {
    return row * p.w_pitch + block / 8u * 17u;
}

/// The scale of a part: half a word.
fn scale_of(group: u32, part: u32) -> f32 {
    let pair = unpack2x16float(w[group][part / 2u]);
    return select(pair.x, pair.y, (part & 1u) == 1u);
}

/// The four bytes of a word, signed.
fn numbers(word: u32) -> vec4f {
    return vec4f((vec4i(bitcast<i32>(word)) << vec4u(24u, 16u, 8u, 0u)) >> vec4u(24u));
}

/// Four neighbours of a row.
fn weight4(row: u32, quad: u32) -> vec4f {
    let group = group_of(row, quad / 8u);
    let part = quad / 8u % 8u;
    let word = w[group + 1u + 2u * part + quad / 4u % 2u][quad % 4u];
    return scale_of(group, part) * numbers(word);
}

/// The product of 32 neighbours of a row with `x`.
fn dot32(row: u32, block: u32, x: ptr<function, array<vec4f, 8>>) -> f32 {
    let group = group_of(row, block);
    let part = block % 8u;
    var sum = vec4f();
    for (var i = 0u; i < 2u; i++) {
        let words = w[group + 1u + 2u * part + i];
        let first = 4u * i;
        sum += (*x)[first] * numbers(words.x);
        sum += (*x)[first + 1u] * numbers(words.y);
        sum += (*x)[first + 2u] * numbers(words.z);
        sum += (*x)[first + 3u] * numbers(words.w);
    }
    return scale_of(group, part) * dot(sum, vec4f(1.0));
}
