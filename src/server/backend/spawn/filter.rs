//! [`NO_KEYS`]: a seccomp filter, as a BPF program, that denies the system calls for keys.

use nix::libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
    ENOSYS, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, sock_filter,
};

/// The system call interfaces of all supported machines: the kernel's number of the architecture
/// (`AUDIT_ARCH_*`) and the number of `add_key`. On each of them, `request_key` and `keyctl` have
/// the next two numbers.
///
/// On a 64-bit machine, a process may also use the 32-bit interface, so both have a row.
const INTERFACES: [(u32, u32); 10] = [
    // x86_64 and x32; i386
    (0xc000_003e, 248),
    (0x4000_0003, 286),
    // aarch64; arm
    (0xc000_00b7, 217),
    (0x4000_0028, 309),
    // riscv64; riscv32
    (0xc000_00f3, 217),
    (0x4000_00f3, 217),
    // loongarch64
    (0xc000_0102, 217),
    // s390x
    (0x8000_0016, 278),
    // ppc64le; ppc64
    (0xc000_0015, 269),
    (0x8000_0015, 269),
];

/// The bit that marks calls of the x32 interface (x86_64 with 32-bit pointers).
const X32: u32 = 0x4000_0000;

/// Offsets of the call number and of the architecture in `seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

const ALLOW: sock_filter = step(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
const DENY: sock_filter = step(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS as u32, 0, 0);

/// Number of instructions for each row of [`INTERFACES`].
const STEPS: usize = 7;

/// Denies the calls for the kernel's keys with `ENOSYS`, as a kernel without keys does, and allows
/// all other calls. Denies every call of an interface that is not in [`INTERFACES`].
pub(super) static NO_KEYS: [sock_filter; 2 + STEPS * INTERFACES.len()] = no_keys();

const fn no_keys() -> [sock_filter; 2 + STEPS * INTERFACES.len()] {
    let mut program = [DENY; 2 + STEPS * INTERFACES.len()];
    program[0] = step(BPF_LD | BPF_W | BPF_ABS, ARCHITECTURE, 0, 0);
    let mut row = 0;
    while row < INTERFACES.len() {
        let (architecture, first) = INTERFACES[row];
        let start = 1 + STEPS * row;
        let steps = [
            // If the call uses another interface, jump to the next row.
            step(BPF_JMP | BPF_JEQ | BPF_K, architecture, 0, 6),
            step(BPF_LD | BPF_W | BPF_ABS, NUMBER, 0, 0),
            step(BPF_ALU | BPF_AND | BPF_K, !X32, 0, 0),
            step(BPF_JMP | BPF_JGE | BPF_K, first, 0, 1),
            step(BPF_JMP | BPF_JGT | BPF_K, first + 2, 0, 1),
            ALLOW,
            DENY,
        ];
        let mut at = 0;
        while at < STEPS {
            program[start + at] = steps[at];
            at += 1;
        }
        row += 1;
    }
    program
}

const fn step(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel does, and returns its verdict.
    fn decide(architecture: u32, number: u32) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let it = NO_KEYS[at];
            let jump = |yes: bool| usize::from(if yes { it.jt } else { it.jf });
            at += 1;
            match u32::from(it.code) {
                code if code == BPF_LD | BPF_W | BPF_ABS && it.k == NUMBER => accumulator = number,
                code if code == BPF_LD | BPF_W | BPF_ABS => accumulator = architecture,
                code if code == BPF_ALU | BPF_AND | BPF_K => accumulator &= it.k,
                code if code == BPF_JMP | BPF_JEQ | BPF_K => at += jump(accumulator == it.k),
                code if code == BPF_JMP | BPF_JGE | BPF_K => at += jump(accumulator >= it.k),
                code if code == BPF_JMP | BPF_JGT | BPF_K => at += jump(accumulator > it.k),
                code if code == BPF_RET | BPF_K => return it.k,
                code => panic!("step {code}"),
            }
        }
    }

    #[test]
    fn calls_for_keys_are_denied_and_no_others() {
        for (architecture, first) in INTERFACES {
            for number in [0, first - 1, first + 3, !X32] {
                assert_eq!(decide(architecture, number), ALLOW.k, "{number}");
            }
            for number in [first, first + 1, first + 2, X32 | first] {
                assert_eq!(decide(architecture, number), DENY.k, "{number}");
            }
        }
        assert_eq!(decide(0, 0), DENY.k);
    }

    #[test]
    fn the_machine_of_this_build_is_in_the_table() {
        let first = u32::try_from(nix::libc::SYS_add_key).unwrap();
        assert!(INTERFACES.iter().any(|&(_, it)| it == first));
        assert_eq!(nix::libc::SYS_keyctl - nix::libc::SYS_add_key, 2);
    }
}
