/// Where a group of eight parts begins: 16 scales, two words of upper bits of each part, then a quad of words each. Before
/// every eighth group stand the scales of eight.
fn group_of(row: u32, block: u32) -> u32 {
    return row * p.w_pitch + block / 8u * 13u + block / 64u + 1u;
}

/// The scales of the halves of a part.
fn scale_of(row: u32, block: u32) -> vec2f {
    let pair = unpack2x16float(w[row * p.w_pitch + block / 64u * 105u][block / 16u % 4u]);
    let scale = select(pair.x, pair.y, (block & 8u) == 8u);
    let word = w[group_of(row, block)][block / 2u % 4u] >> (16u * (block & 1u));
    return scale * vec2f((vec2i(bitcast<i32>(word)) << vec2u(24u, 16u)) >> vec2u(24u));
}

/// Four numbers, signed, of the lower nibbles of one word and the lowest pairs of bits of the bytes of another.
fn numbers(nibbles: u32, bits: u32) -> vec4f {
    let bytes = bitcast<i32>((nibbles & 0x0f0f0f0fu) << 2u | (bits & 0x03030303u) << 6u);
    return vec4f((vec4i(bytes) << vec4u(24u, 16u, 8u, 0u)) >> vec4u(26u));
}

/// Four neighbours of a row.
fn weight4(row: u32, quad: u32) -> vec4f {
    let block = quad / 8u;
    let group = group_of(row, block);
    let part = block % 8u;
    let upper = (quad & 4u) == 4u;
    let bits = w[group + 1u + part / 2u][part % 2u * 2u + u32(upper)];
    let word = w[group + 5u + part][quad % 4u];
    let scale = scale_of(row, block);
    return select(scale.x, scale.y, upper) * numbers(word >> (quad & 4u), bits >> (2u * (quad % 4u)));
}

/// The product of 32 neighbours of a row with `x`.
fn dot32(row: u32, block: u32, x: ptr<function, array<vec4f, 8>>) -> f32 {
    let group = group_of(row, block);
    let part = block % 8u;
    let pairs = w[group + 1u + part / 2u];
    let bits = select(pairs.xy, pairs.zw, (part & 1u) == 1u);
    let words = w[group + 5u + part];
    var lower = vec4f();
    var upper = vec4f();
    for (var i = 0u; i < 4u; i++) {
        lower += (*x)[i] * numbers(words[i], bits.x >> (2u * i));
        upper += (*x)[i + 4u] * numbers(words[i] >> 4u, bits.y >> (2u * i));
    }
    return dot(scale_of(row, block), vec2f(dot(lower, vec4f(1.0)), dot(upper, vec4f(1.0))));
}
