//! Weight formats: what stored blocks are worth, bit for bit, by the twin and as both backends read them, and what is
//! refused. The expected numbers are gguf-py's (`tests/oracle/quants_oracle.py`); the cases of products are in the table.

// Whether wgpu's types are `Sync` is a question more than 128 types deep.
#![recursion_limit = "256"]

use gristmill::{ComputeBackend, Error, Format, GpuCompute, Weight, ops, reference};

const ROWS: usize = 8;
const COLUMNS: usize = 512;

fn stored(format: Format) -> Vec<u8> {
    let path = format!("tests/oracle/quants/{}.blocks.bin", format.name());
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The bits of the expected numbers.
fn expected(format: Format) -> Vec<u32> {
    let path = format!("tests/oracle/quants/{}.f32.bin", format.name());
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let bits: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    assert_eq!(bits.len(), ROWS * COLUMNS);
    bits
}

fn formats() -> impl Iterator<Item = Format> {
    Format::ALL.into_iter().filter(|format| *format != Format::F32)
}

/// All of them, not the first.
fn assert_same(of: &str, format: Format, got: &[f32]) {
    let expected = expected(format);
    assert_eq!(got.len(), expected.len(), "{of}, {}", format.name());
    let differs = |i: &usize| got[*i].to_bits() != expected[*i];
    let wrong: Vec<usize> = (0..got.len()).filter(differs).collect();
    let show = |i: &usize| format!("[{i}] {:e}, not {:e}", got[*i], f32::from_bits(expected[*i]));
    let first: Vec<String> = wrong.iter().take(4).map(show).collect();
    assert!(wrong.is_empty(), "{of}, {}: {} of {} differ: {first:?}", format.name(), wrong.len(), got.len());
}

fn weight(gpu: &GpuCompute, format: Format, (rows, columns): (usize, usize)) -> Result<Weight, Error> {
    let bytes = stored(format);
    let row = bytes.len() / ROWS;
    Weight::from_rows(gpu, (rows, columns), format, |range| Ok(bytes[range.start * row..range.end * row].to_vec()))
}

/// Every row of the stored blocks, gathered.
fn rows_of(gpu: &GpuCompute, format: Format) -> Vec<f32> {
    let weight = weight(gpu, format, (ROWS, COLUMNS)).unwrap();
    assert!(weight.bytes() >= stored(format).len() as u64, "{}", format.name());
    let ids = gpu.tensor_u32(&(0..ROWS as u32).collect::<Vec<_>>(), &[ROWS]).unwrap();
    let mut pass = gpu.pass();
    let mut out = pass.tensor(&[ROWS, COLUMNS]).unwrap();
    ops::gather(&mut pass, &ids, &weight, &mut out).unwrap();
    let read = pass.read(&out).unwrap();
    pass.submit().unwrap();
    read.wait(std::time::Duration::from_secs(60)).unwrap()
}

fn gpu() -> Option<GpuCompute> {
    match GpuCompute::new(ComputeBackend::Gpu) {
        Ok(gpu) => Some(gpu),
        Err(error) => {
            let required = std::env::var("GRISTMILL_REQUIRE_ADAPTER").is_ok_and(|value| value == "1");
            assert!(!required, "GRISTMILL_REQUIRE_ADAPTER=1, and: {error}");
            eprintln!("SKIPPED, not passed: {error}");
            None
        }
    }
}

#[test]
fn the_twin_reads_what_gguf_py_reads() {
    for format in formats() {
        assert_same("the twin", format, &reference::dequantize(format, &stored(format)));
    }
}

#[test]
fn the_cpu_backend_reads_what_gguf_py_reads() {
    let cpu = GpuCompute::new(ComputeBackend::Cpu).unwrap();
    for format in formats() {
        assert_same("the CPU backend", format, &rows_of(&cpu, format));
    }
}

/// WGSL lets an adapter flush subnormal numbers; where this fails for that reason, its K-quants are not worth what a file
/// says, because their scales are often subnormal.
#[test]
fn the_adapter_reads_what_gguf_py_reads() {
    let Some(gpu) = gpu() else { return };
    for format in formats() {
        assert_same(&gpu.adapter().unwrap().to_string(), format, &rows_of(&gpu, format));
    }
}

#[test]
fn a_row_is_whole_blocks() {
    let message = |result: Result<Weight, Error>| match result {
        Err(Error::Shape { message, .. }) => message,
        other => panic!("{other:?}"),
    };
    let both = [Some(GpuCompute::new(ComputeBackend::Cpu).unwrap()), gpu()];
    for gpu in both.iter().flatten() {
        for format in formats().filter(|format| format.is_quantized()) {
            let (numbers, _) = format.block();
            for columns in [1, numbers - 1, numbers + 1, 3 * numbers / 2, COLUMNS - 16] {
                let refused = message(weight(gpu, format, (1, columns)));
                let says = |what: &str| assert!(refused.contains(what), "{refused}: no `{what}`");
                says(format.name());
                says(&format!("blocks of {numbers}"));
                says(&columns.to_string());
            }
            // The bytes of other rows.
            let refused = message(weight(gpu, format, (ROWS, COLUMNS - numbers)));
            assert!(refused.contains("bytes for 8 rows"), "{refused}");
            let refused = message(Weight::from_f32(gpu, &[0.0; 256], (1, 256), format));
            assert!(refused.contains(format.name()) && refused.contains("from_rows"), "{refused}");
            // Without rows or columns there is nothing to refuse.
            assert_eq!(weight(gpu, format, (0, COLUMNS)).unwrap().bytes(), 0);
            let empty = Weight::from_rows(gpu, (3, 0), format, |_| Ok(Vec::new())).unwrap();
            assert_eq!((empty.rows(), empty.columns(), empty.format()), (3, 0, Some(format)));
        }
    }
}

/// Where products write the columns of a part, and rows are found in one: against the parts by themselves.
#[test]
fn a_stack_is_its_parts() {
    let both = [Some(GpuCompute::new(ComputeBackend::Cpu).unwrap()), gpu()];
    for gpu in both.iter().flatten() {
        for (i, format) in Format::ALL.into_iter().enumerate().skip(1) {
            let other = Format::ALL[1 + i % (Format::ALL.len() - 1)];
            let parts = || vec![(format, 8), (other, 4), (format, 8), (other, 3)].into_iter();
            let part = |(format, rows)| weight(gpu, format, (rows, COLUMNS)).unwrap();
            let stack = Weight::stacked(parts().map(part).collect()).unwrap();
            assert_eq!((stack.rows(), stack.columns(), stack.format()), (23, COLUMNS, None));
            let bytes: u64 = parts().map(part).map(|part| part.bytes()).sum();
            assert_eq!(stack.bytes(), bytes);
            for m in [1, 5, 12] {
                let x: Vec<f32> = (0..m * COLUMNS).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
                let bias: Vec<f32> = (0..23).map(|i| 100.0 + i as f32).collect();
                let x = gpu.tensor(&x, &[m, COLUMNS]).unwrap();
                let product = |w: &Weight, bias: &[f32]| {
                    let bias = gpu.tensor(bias, &[bias.len()]).unwrap();
                    let mut pass = gpu.pass();
                    let mut out = pass.tensor(&[m, w.rows()]).unwrap();
                    ops::linear(&mut pass, &x, w, Some(&bias), &mut out).unwrap();
                    pass.submit().unwrap();
                    gpu.read::<f32>(&out).unwrap()
                };
                let whole = product(&stack, &bias);
                let mut first = 0;
                for (format, rows) in parts() {
                    let alone = product(&part((format, rows)), &bias[first..][..rows]);
                    for row in 0..m {
                        let (got, expected) = (&whole[row * 23 + first..][..rows], &alone[row * rows..][..rows]);
                        assert_eq!(
                            got,
                            expected,
                            "{} in a stack with {}, row {row} of {m}",
                            format.name(),
                            other.name()
                        );
                    }
                    first += rows;
                }
            }
            // Rows of every part, the last one, and one that is not there.
            let ids = [7, 0, 8, 11, 12, 19, 20, 22, 23];
            let ids = gpu.tensor_u32(&ids, &[9]).unwrap();
            let mut pass = gpu.pass();
            let mut out = pass.tensor(&[9, COLUMNS]).unwrap();
            ops::gather(&mut pass, &ids, &stack, &mut out).unwrap();
            pass.submit().unwrap();
            let got = gpu.read::<f32>(&out).unwrap();
            let row = |format, row: usize| expected(format)[row * COLUMNS..][..COLUMNS].to_vec();
            let rows =
                [(format, 7), (format, 0), (other, 0), (other, 3), (format, 0), (format, 7), (other, 0), (other, 2)];
            let mut expected: Vec<u32> = rows.into_iter().flat_map(|(format, at)| row(format, at)).collect();
            expected.extend([0; COLUMNS]);
            let same = got.iter().zip(&expected).all(|(got, expected)| got.to_bits() == *expected);
            assert!(same && got.len() == expected.len(), "rows of {} and {}", format.name(), other.name());
        }
        let refused = |parts: Vec<Weight>| Weight::stacked(parts).unwrap_err().to_string();
        let part = |rows, columns| weight(gpu, Format::F16, (rows, columns));
        let dense =
            |rows, columns| Weight::from_f32(gpu, &vec![0.0; rows * columns], (rows, columns), Format::F16).unwrap();
        assert!(refused(vec![dense(4, 6), dense(4, 7)]).contains("[4, 7] below [4, 6]"));
        assert!(refused(vec![part(3, COLUMNS).unwrap(), part(4, COLUMNS).unwrap()]).contains("4, 8"));
        assert!(refused(Vec::new()).contains("no parts"));
        assert_eq!(Weight::stacked(vec![dense(4, 6), dense(3, 6)]).unwrap().format(), Some(Format::F16));
    }
}

/// As many bytes as a file has, but for the last 16 of a row and the head of a group that is not full.
#[test]
fn laying_out_costs_no_memory() {
    for format in formats().filter(|format| format.is_quantized()) {
        for groups in 1..40 {
            let (stored, row) = (format.stored_bytes(256 * groups).unwrap(), format.row_bytes(256 * groups));
            assert!(row.is_multiple_of(16) && (stored..stored + 16).contains(&row), "{format:?}: {row} for {stored}");
        }
        assert_eq!(format.stored_bytes(1), None);
    }
}
