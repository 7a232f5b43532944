/// What a kernel needs of a device beyond what every device has. Read from its text, as all else is.
///
/// ```
/// use gristmill::kernel::Needs;
/// use gristmill::kernels::{matmul, matmul_transpose_b_matrix16, matvec_subgroup};
///
/// assert_eq!(matmul::KERNEL.needs, Needs::default());
/// assert!(matvec_subgroup::KERNEL.needs.subgroups);
/// let needs = matmul_transpose_b_matrix16::KERNEL.needs;
/// assert_eq!((needs.f16, needs.matrix), (true, 16));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// Subgroup operations.
    pub subgroups: bool,
    /// 16-bit floats to compute with.
    pub f16: bool,
    /// Integers of 64 bits.
    pub int64: bool,
    /// Units that multiply square matrices of this many rows at once; 0: none.
    pub matrix: u32,
}
