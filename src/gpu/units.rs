//! Matrix units: what multiplies small matrices at once, all lanes of a subgroup together. Which sizes they take is known of
//! an adapter and not of a device, so an engine that opens its own device may use them, and a guest may not.
//!
//! They are an experimental feature of wgpu, so a device has it only where halves were asked for.

use crate::kernel::Kernel;

/// What an adapter's units multiply: halves, into sums of f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Units {
    /// Matrices of 8 x 8.
    eight: bool,
    /// Matrices of 16 x 16.
    sixteen: bool,
    /// Lanes of every subgroup.
    pub(crate) lanes: u32,
}

impl std::fmt::Display for Units {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = if self.sixteen { 16 } else { 8 };
        write!(f, "matrix units of {side} x {side}, subgroups of {}", self.lanes)
    }
}

impl Units {
    /// What a device has to be asked for so that its units can be used.
    pub(super) const FEATURES: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
        .union(wgpu::Features::SHADER_F16)
        .union(wgpu::Features::SUBGROUP);

    /// Those of an adapter.
    ///
    /// # Errors
    /// Why there are none to be used.
    pub(super) fn of(adapter: &wgpu::Adapter) -> Result<Units, &'static str> {
        use wgpu::CooperativeScalarType as Scalar;
        if !adapter.features().contains(Units::FEATURES) {
            return Err("the adapter has no matrix units");
        }
        let info = adapter.get_info();
        if info.subgroup_min_size != info.subgroup_max_size {
            return Err("the adapter has matrix units, and subgroups of several sizes");
        }
        let known = adapter.cooperative_matrix_properties();
        let takes = |side: u32| {
            known.iter().any(|p| {
                [p.m_size, p.n_size, p.k_size] == [side; 3] && (p.ab_type, p.cr_type) == (Scalar::F16, Scalar::F32)
            })
        };
        let units = Units { eight: takes(8), sixteen: takes(16), lanes: info.subgroup_max_size };
        if units.eight || units.sixteen { Ok(units) } else { Err("the adapter's matrix units take other matrices") }
    }

    /// Why they do not run a kernel; `None`: they do.
    pub(super) fn lack(self, kernel: &Kernel) -> Option<&'static str> {
        let sized = match kernel.needs.matrix {
            8 => self.eight,
            16 => self.sixteen,
            _ => false,
        };
        let lanes = kernel.modes.iter().find(|mode| mode.name == "LANES");
        match lanes.is_none_or(|mode| mode.values.contains(&self.lanes)) {
            _ if !sized => Some("the adapter's matrix units take matrices of another size"),
            false => Some("the adapter's subgroups have another size"),
            true => None,
        }
    }

    /// Has a device be made with them.
    pub(super) fn ask_for(descriptor: &mut wgpu::DeviceDescriptor<'_>) {
        descriptor.required_features |= Units::FEATURES;
        #[expect(unsafe_code, reason = "wgpu wants to be told that its experimental features are known to be such")]
        // SAFETY: of them only cooperative matrices are asked for, and the kernels that use them are the house's own.
        let experimental = unsafe { wgpu::ExperimentalFeatures::enabled() };
        descriptor.experimental_features = experimental;
    }
}
