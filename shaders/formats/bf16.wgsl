/// Two numbers of a word.
fn pair_of(word: u32) -> vec2f {
    return bitcast<vec2f>(vec2u(word << 16u, word & 0xffff0000u));
}

/// Four neighbours of a row: half of a word quad.
fn weight4(row: u32, quad: u32) -> vec4f {
    let words = w[row * p.w_pitch + quad / 2u];
    let pair = select(words.xy, words.zw, (quad & 1u) == 1u);
    return vec4f(pair_of(pair.x), pair_of(pair.y));
}

/// The product of 32 neighbours of a row with `x`.
fn dot32(row: u32, block: u32, x: ptr<function, array<vec4f, 8>>) -> f32 {
    let at = row * p.w_pitch + block * 4u;
    var sum = vec4f();
    for (var i = 0u; i < 4u; i++) {
        let words = w[at + i];
        sum += (*x)[2u * i] * vec4f(pair_of(words.x), pair_of(words.y));
        sum += (*x)[2u * i + 1u] * vec4f(pair_of(words.z), pair_of(words.w));
    }
    return dot(sum, vec4f(1.0));
}
