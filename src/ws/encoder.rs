//! Encoding: headers in place, and whole control frames.

#[cfg(any(test, feature = "testing"))]
use super::apply_mask;
use super::{OpCode, Role};

/// Bytes of the header in front of a payload.
pub const fn header_len(role: Role, payload_len: usize) -> usize {
    let length = match payload_len {
        0..=125 => 0,
        126..=0xFFFF => 2,
        _ => 8,
    };
    let mask = match role {
        Role::Server => 0,
        Role::Client => 4,
    };
    2 + length + mask
}

/// Writes the header of an unfragmented frame to the front of `out` and gives its length.
///
/// # Panics
///
/// If `out` is shorter than [`header_len`], or a client gives no mask, or a server one: our own
/// faults.
pub fn write_header(
    out: &mut [u8],
    role: Role,
    opcode: OpCode,
    payload_len: usize,
    mask: Option<[u8; 4]>,
) -> usize {
    let masks = role == Role::Client;
    assert!(
        mask.is_some() == masks,
        "a client masks every frame and a server none"
    );
    let mask_bit = if masks { 0x80 } else { 0 };
    let mut header = [0u8; 14];
    header[0] = 0x80 | opcode as u8;
    let length_end = match payload_len {
        0..=125 => {
            header[1] = mask_bit | payload_len as u8;
            2
        }
        126..=0xFFFF => {
            header[1] = mask_bit | 126;
            header[2..4].copy_from_slice(&(payload_len as u16).to_be_bytes());
            4
        }
        _ => {
            header[1] = mask_bit | 127;
            header[2..10].copy_from_slice(&(payload_len as u64).to_be_bytes());
            10
        }
    };
    let len = match mask {
        Some(key) => {
            header[length_end..length_end + 4].copy_from_slice(&key);
            length_end + 4
        }
        None => length_end,
    };
    out[..len].copy_from_slice(&header[..len]);
    len
}

/// Appends a whole frame, masked as the role wants it.
#[cfg(any(test, feature = "testing"))]
pub fn push_frame(
    out: &mut Vec<u8>,
    role: Role,
    opcode: OpCode,
    payload: &[u8],
    mask: Option<[u8; 4]>,
) {
    let mut header = [0u8; 14];
    let len = write_header(&mut header, role, opcode, payload.len(), mask);
    out.extend_from_slice(&header[..len]);
    let start = out.len();
    out.extend_from_slice(payload);
    if let (Some(key), Some(bytes)) = (mask, out.get_mut(start..)) {
        apply_mask(bytes, key, 0);
    }
}
