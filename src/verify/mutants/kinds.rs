//! The kinds of mistakes.
//!
//! They are those that are easily made in a kernel: an edge that is off by one, a barrier that is missing, a mask that lets
//! through, a pitch for a width, the variance in one pass. A kind says what is exchanged for what, in one place, because
//! what a mutant is not must be said as well: a change that makes nothing wrong is no mistake, and counting it among the
//! survivors would hide those that count.

/// What kind of mistake a mutant makes.
///
/// ```
/// use gristmill::verify::mutants::Operator;
///
/// let names: Vec<&str> = Operator::ALL.into_iter().map(Operator::name).collect();
/// assert_eq!(names[..3], ["arithmetic", "bound", "logic"]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// Another arithmetic operator (`+` for `-`, `+` for `*`, `*` for `/`, `/` for `%`, `|` for `&`), or a lost minus sign.
    Arithmetic,
    /// A comparison that is off by its border: `<=` for `<`, `!=` for `==`.
    Bound,
    /// `&&` for `||`.
    Logic,
    /// A whole number that is one too large: an index, an offset, a factor.
    Index,
    /// A float of half its value, or 1 for 0. (Half, because a limit has slack above it more often than below.)
    Constant,
    /// Another member of the same type, half way round the list (neighbours often have one value: a depth in quads and the
    /// pitch of its rows), or another component.
    Stride,
    /// A statement that is not there.
    Statement,
    /// A `workgroupBarrier` that is not there.
    Barrier,
    /// The first or the last step of a loop is not there. (Other changes of a loop's head are none where it has one step
    /// only, or where a step more adds zeros: `+=` stays, and so does `<` unless the step is one.)
    Tile,
    /// A condition, a `select` or a `clamp` that lets everything through; nothing, where it elects the one invocation that
    /// writes (`lane == 0u`: any other would do as well).
    Mask,
    /// A subtraction that is not there: of the maximum before `exp`, of the mean, of a first row.
    Shift,
    /// Another function: `min` for `max`, `sqrt` for `inverseSqrt`.
    Builtin,
    /// The variance as E\[x^2\] - mean^2 in place of E\[(x - mean)^2\].
    Variance,
}

impl Operator {
    /// Every operator.
    pub const ALL: [Operator; 13] = [
        Operator::Arithmetic,
        Operator::Bound,
        Operator::Logic,
        Operator::Index,
        Operator::Constant,
        Operator::Stride,
        Operator::Statement,
        Operator::Barrier,
        Operator::Tile,
        Operator::Mask,
        Operator::Shift,
        Operator::Builtin,
        Operator::Variance,
    ];

    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Operator::Arithmetic => "arithmetic",
            Operator::Bound => "bound",
            Operator::Logic => "logic",
            Operator::Index => "index",
            Operator::Constant => "constant",
            Operator::Stride => "stride",
            Operator::Statement => "statement",
            Operator::Barrier => "barrier",
            Operator::Tile => "tile",
            Operator::Mask => "mask",
            Operator::Shift => "shift",
            Operator::Builtin => "builtin",
            Operator::Variance => "variance",
        }
    }
}
