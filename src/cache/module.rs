//! Modules: the text of a variant, on its way to the driver.

/// A module, with the checks that keep its indices within their arrays and its loops finite, or without them.
pub(super) fn module(device: &wgpu::Device, name: &str, source: &str, unchecked: bool) -> wgpu::ShaderModule {
    let source = wgpu::ShaderSource::Wgsl(source.into());
    let descriptor = wgpu::ShaderModuleDescriptor { label: Some(name), source };
    if !unchecked {
        return device.create_shader_module(descriptor);
    }
    #[expect(unsafe_code, reason = "a matrix that is loaded at once, or not, by a check of its first index is none")]
    // SAFETY: only kernels of the house come here. Their indices are bounded by their parameters, which their ops check,
    // and their loops are finite; the cases run them between guards.
    unsafe {
        device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
    }
}
