//! A kernel by name, its variants by the names of their constants, and what a variant needs of a device. For whoever chooses
//! at run time: a program of ours names the generated types, and what does not exist does not compile.

#[cfg(feature = "gpu")]
use super::Needs;
use super::{Constant, Format, Kernel, Variant, kernels};
use crate::error::{Error, Result};

/// What a variant needs of a device.
///
/// ```
/// let kernel = &gristmill::kernels::matmul::KERNEL;
/// let mut variant = kernel.default_variant();
/// kernel.set(&mut variant, "BN", 32)?;
/// let resources = kernel.resources(&variant)?;
/// assert_eq!((resources.workgroup_size, resources.needs.subgroups), ([128, 1, 1], false)); // 64 / 4 by 32 / 4
/// # Ok::<(), gristmill::Error>(())
/// ```
#[cfg(feature = "gpu")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Invocations per workgroup.
    pub workgroup_size: [u32; 3],
    /// Workgroup memory, in bytes.
    pub workgroup_bytes: u32,
    /// What it needs beyond what every device has.
    pub needs: Needs,
}

impl Kernel {
    /// A kernel by its name.
    ///
    /// # Errors
    /// [`Error::BadOption`] with the names there are.
    ///
    /// ```
    /// use gristmill::kernel::Kernel;
    ///
    /// assert_eq!(Kernel::named("softmax")?.op, "softmax");
    /// assert!(Kernel::named("softmaxx").unwrap_err().to_string().contains("softmax, swiglu, tanh"));
    /// # Ok::<(), gristmill::Error>(())
    /// ```
    pub fn named(name: &str) -> Result<&'static Kernel> {
        kernels::ALL.iter().copied().find(|kernel| kernel.name == name).ok_or_else(|| {
            let names: Vec<&str> = kernels::ALL.iter().map(|kernel| kernel.name).collect();
            let message = format!("no kernel `{name}`; there are {}", names.join(", "));
            Error::BadOption { option: "kernel", message }
        })
    }

    /// Sets a knob or a mode of a variant. Any value may be tried: whether it goes with the others is what the kernel's own
    /// assertions say, when the variant is validated.
    ///
    /// # Errors
    /// [`Error::BadOption`] with the knobs and modes there are.
    pub fn set(&self, variant: &mut Variant, name: &str, value: u32) -> Result<()> {
        let declared = self.knobs.iter().chain(self.modes);
        match declared.zip(&mut variant.constants).find(|(constant, _)| constant.name == name) {
            Some((_, place)) => *place = value,
            None => {
                let (knobs, modes) = (listed(self.knobs), listed(self.modes));
                let message = format!("{} has no `{name}`; knobs: {knobs}; modes: {modes}", self.name);
                return Err(Error::BadOption { option: "knob", message });
            }
        }
        Ok(())
    }

    /// The formats of a weight that its text can be given: all of them, or f32 where it reads no weight.
    pub fn formats(&self) -> &'static [Format] {
        if self.format.is_some() { &Format::ALL } else { &[Format::F32] }
    }

    /// Validates a variant, and says what it needs.
    ///
    /// # Errors
    /// [`Error::Shader`] with naga's message, the file and the line: an assertion that the knobs break, as a rule.
    #[cfg(feature = "gpu")]
    pub fn resources(&self, variant: &Variant) -> Result<Resources> {
        let (path, text) = (self.path(), self.wgsl(variant));
        let (_, needs) = crate::reflect::validate(&path, &text).map_err(Error::Shader)?;
        let (workgroup_size, workgroup_bytes) = crate::reflect::resources(&path, &text).map_err(Error::Shader)?;
        Ok(Resources { workgroup_size, workgroup_bytes, needs })
    }

    /// The SPIR-V that naga makes of a variant, version 1.3, in words. A driver gets another: wgpu writes it for what the
    /// device has, and adds checks of bounds where the device has none.
    ///
    /// # Errors
    /// [`Error::Shader`] as [`Kernel::resources`], or with what cannot be said in SPIR-V.
    ///
    /// ```
    /// let kernel = &gristmill::kernels::relu::KERNEL;
    /// assert_eq!(kernel.spirv(&kernel.default_variant())?[0], 0x0723_0203); // its magic number
    /// # Ok::<(), gristmill::Error>(())
    /// ```
    #[cfg(feature = "gpu")]
    pub fn spirv(&self, variant: &Variant) -> Result<Vec<u32>> {
        use naga::back::spv;
        use naga::valid::{Capabilities, ValidationFlags, Validator};

        let (path, text) = (self.path(), self.wgsl(variant));
        let (module, _) = crate::reflect::validate(&path, &text).map_err(Error::Shader)?;
        // Which capabilities it may have was seen to; this is for the types of its expressions.
        let info = Validator::new(ValidationFlags::all(), Capabilities::all())
            .validate(&module)
            .map_err(|e| Error::Shader(e.emit_to_string_with_path(&text, &path)))?;
        // Subgroup operations came with 1.3.
        let options = spv::Options { lang_version: (1, 3), ..spv::Options::default() };
        let entry =
            spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: self.name.to_owned() };
        spv::write_vec(&module, &info, &options, Some(&entry)).map_err(|e| Error::Shader(format!("{path}: {e}")))
    }

    #[cfg(feature = "gpu")]
    fn path(&self) -> String {
        format!("shaders/{}.wgsl", self.name)
    }
}

fn listed(constants: &[Constant]) -> String {
    let one = |constant: &Constant| {
        let values: Vec<String> = constant.values.iter().map(u32::to_string).collect();
        format!("{}={}", constant.name, values.join("|"))
    };
    let all: Vec<String> = constants.iter().map(one).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}
