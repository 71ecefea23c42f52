//! What the kernels' machine code may not have, and what is kept an eye on: the disassembler's text,
//! read.
//!
//! Data of tasks is written by other kernels, and later by other blocks of the same one. Loads that do
//! not see such writes (by way of the read-only cache: `.CONSTANT`, or textures) may only be of tables
//! that are part of the code, such as that of `sinf`: their addresses come from the bank of constants
//! with the module's own.

use anyhow::{Result, bail};

/// The bank with addresses of the module's own data.
const OWN_DATA: &str = "c[0x4][";
/// Instructions that a load's address is followed back over.
const STEPS_MAX: usize = 24;

/// What a kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    /// Loads and stores of what registers do not hold.
    pub(crate) local_loads: u32,
    pub(crate) local_stores: u32,
    /// Loads of tables.
    pub(crate) table_loads: u32,
}

/// An instruction.
#[derive(Clone, Copy)]
struct Instruction<'a> {
    opcode: &'a str,
    operands: &'a str,
}

/// A register: whether it is a uniform one, and its number.
type Register = (bool, u32);

/// Reads a disassembly: its kernels by name, or where one loads data as it may not.
pub(crate) fn kernels(text: &str) -> Result<Vec<Kernel>> {
    let mut kernels = Vec::new();
    let mut sections = text.split("\n.text.");
    sections.next();
    for section in sections {
        let Some((name, code)) = section.split_once(':') else { continue };
        let code: Vec<Instruction<'_>> = code.lines().filter_map(instruction).collect();
        kernels.push(read(name, &code)?);
    }
    if kernels.is_empty() {
        bail!("the disassembly has no kernel");
    }
    kernels.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(kernels)
}

fn read(name: &str, code: &[Instruction<'_>]) -> Result<Kernel> {
    let mut kernel = Kernel { name: name.into(), ..Kernel::default() };
    for (at, one) in code.iter().enumerate() {
        let mut parts = one.opcode.split('.');
        let base = parts.next().unwrap_or_default();
        match base {
            "LDL" => kernel.local_loads += 1,
            "STL" => kernel.local_stores += 1,
            "TEX" | "TLD" | "TLD4" | "TXD" | "SULD" => bail!("{name}: {} {}", one.opcode, one.operands),
            "LDG" | "LD" if parts.any(|part| part == "CONSTANT" || part == "CI") => {
                if !is_of_own_data(code, at) {
                    bail!("{name} loads data past what others write: {} {}", one.opcode, one.operands);
                }
                kernel.table_loads += 1;
            }
            _ => {}
        }
    }
    Ok(kernel)
}

/// Whether a load's address is made of one of the module's own data.
fn is_of_own_data(code: &[Instruction<'_>], load: usize) -> bool {
    let address = code[load].operands.rsplit_once('[').map_or("", |(_, address)| address);
    let mut wanted: Vec<(usize, Register)> =
        registers(address).into_iter().map(|register| (load, register)).collect();
    for _ in 0..STEPS_MAX {
        let Some((before, register)) = wanted.pop() else { return false };
        let Some(at) = (0..before).rev().find(|&at| code[at].writes(register)) else { continue };
        let sources = code[at].operands.split_once(',').map_or("", |(_, sources)| sources);
        if sources.contains(OWN_DATA) {
            return true;
        }
        wanted.extend(registers(sources).into_iter().map(|register| (at, register)));
    }
    false
}

impl Instruction<'_> {
    fn writes(&self, register: Register) -> bool {
        let target = self.operands.split(',').next().unwrap_or_default();
        if target.contains('[') {
            return false;
        }
        let width = match () {
            () if self.opcode.contains(".128") => 4,
            () if self.opcode.contains(".64") || self.opcode.contains(".WIDE") => 2,
            () => 1,
        };
        registers(target).first().is_some_and(|&(uniform, first)| {
            uniform == register.0 && (first..first + width).contains(&register.1)
        })
    }
}

/// The instruction on a line such as `/*54d0*/  @P0 LDG.E R12, [R14.64] ;`.
fn instruction(line: &str) -> Option<Instruction<'_>> {
    let (address, rest) = line.trim().strip_prefix("/*")?.split_once("*/")?;
    u64::from_str_radix(address, 16).ok()?;
    let mut rest = rest.split(';').next()?.trim();
    if rest.starts_with('@') {
        rest = rest.split_once(' ')?.1.trim();
    }
    let (opcode, operands) = rest.split_once(' ').unwrap_or((rest, ""));
    Some(Instruction { opcode, operands: operands.trim() })
}

/// The registers that a text names.
fn registers(text: &str) -> Vec<Register> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let register = |word: &str| {
        let (uniform, number) = match word.strip_prefix("UR") {
            Some(number) => (true, number),
            None => (false, word.strip_prefix('R')?),
        };
        Some((uniform, number.parse().ok()?))
    };
    words.filter_map(register).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(code: &str) -> String {
        format!("head\n.text.one:\n{code}\n.text.two:\n        /*0000*/    EXIT ;\n")
    }

    #[test]
    fn tables_may_be_loaded_so() {
        let direct = "/*00*/ IADD3 R14, P0, R3, c[0x4][0x78], RZ ;\n\
                      /*10*/ IADD3.X R15, R4, c[0x4][0x7c], RZ, P0, !PT ;\n\
                      .L_x_1:\n\
                      /*20*/ LDG.E.CONSTANT R12, [R14.64] ;\n\
                      /*30*/ STL [R3], R4 ;\n\
                      /*40*/ @P0 LDL R6, [R12] ;";
        let expected = Kernel { name: "one".into(), local_loads: 1, local_stores: 1, table_loads: 1 };
        assert_eq!(kernels(&section(direct)).unwrap()[0], expected);
        let uniform = "/*00*/ ULDC.64 UR16, c[0x4][0x78] ;\n\
                       /*10*/ UIADD3 UR9, UP0, UR12, UR16, URZ ;\n\
                       /*20*/ IMAD.U32 R16, RZ, RZ, UR9 ;\n\
                       /*30*/ MOV R17, UR5 ;\n\
                       /*40*/ LDG.E.CONSTANT R12, desc[UR10][R16.64] ;";
        assert_eq!(kernels(&section(uniform)).unwrap()[0].table_loads, 1);
    }

    #[test]
    fn data_may_not() {
        for opcode in ["LDG.E.CONSTANT", "LDG.E.128.CONSTANT", "LD.E.CONSTANT", "LDG.E.CI"] {
            let code = format!(
                "/*00*/ ULDC.64 UR16, c[0x4][0x78] ;\n\
                 /*10*/ IMAD.WIDE R14, R3, 0x4, c[0x0][0x160] ;\n\
                 /*20*/ {opcode} R12, [R14.64] ;"
            );
            let why = kernels(&section(&code)).unwrap_err().to_string();
            assert!(why.starts_with("one loads data past what others write"), "{why}");
        }
        assert!(kernels(&section("/*00*/ TLD.B.LZ R4, R4, R0 ;")).is_err());
        assert!(kernels(&section("/*00*/ LDG.E.64 R12, [R14.64] ;")).is_ok());
        assert!(kernels("nothing").is_err());
    }
}
