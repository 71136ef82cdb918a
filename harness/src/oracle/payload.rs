//! The bytes that scripts carry: every position of the stream has its own, so that what is read tells where it came from.

/// Length of the pattern; a prime, so that no power of two of bytes repeats it.
pub const PERIOD: usize = 65_521;

/// The byte at position `offset` of the stream.
#[must_use]
pub fn byte_at(offset: i64) -> u8 {
    let i = offset.rem_euclid(PERIOD as i64) as u64;
    ((7 * i + 13 * (i >> 8) + (i >> 3)) % 256) as u8
}

/// `len` bytes from position `offset` on; `alt` gives their complements, which tells two overlapping copies apart.
#[must_use]
pub fn bytes_at(offset: i64, len: usize, alt: bool) -> Vec<u8> {
    let flip = if alt { 0xff } else { 0 };
    (0..len as i64).map(|i| byte_at(offset.wrapping_add(i)) ^ flip).collect()
}

/// Which stretches of what was read are complements, and which are neither: `(alt, corrupt)`, as `[from, to)` from the first
/// byte read.
#[must_use]
pub fn inspect(offset: i64, read: &[u8]) -> (Vec<[u64; 2]>, Vec<[u64; 2]>) {
    let (mut alt, mut corrupt): (Vec<[u64; 2]>, Vec<[u64; 2]>) = (Vec::new(), Vec::new());
    for (i, &b) in read.iter().enumerate() {
        let want = byte_at(offset.wrapping_add(i as i64));
        if b == want {
            continue;
        }
        let spans = if b == !want { &mut alt } else { &mut corrupt };
        let i = i as u64;
        match spans.last_mut() {
            Some([_, to]) if *to == i => *to = i + 1,
            _ => spans.push([i, i + 1]),
        }
    }
    (alt, corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_of_the_format() {
        assert_eq!(byte_at(0), 0);
        assert_eq!(byte_at(1), 7);
        assert_eq!(byte_at(300), ((7 * 300 + 13 + (300 >> 3)) % 256) as u8);
        assert_eq!(byte_at(PERIOD as i64 + 5), byte_at(5));
        assert_eq!(byte_at(-1), byte_at(PERIOD as i64 - 1));
    }

    #[test]
    fn copies_are_told_apart() {
        let mut b = bytes_at(10, 6, false);
        b[2] = !b[2];
        b[3] = !b[3];
        b[5] ^= 1;
        assert_eq!(inspect(10, &b), (vec![[2, 4]], vec![[5, 6]]));
        assert_eq!(inspect(70, &bytes_at(70, 9, true)), (vec![[0, 9]], vec![]));
    }
}
