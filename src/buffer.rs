//! A queue of bytes in one contiguous piece.
//!
//! Bytes go in at the tail, either copied or written in place by whoever asked for
//! [`Buffer::space`], and leave at the head. The bound is the owner's business: it asks
//! [`Buffer::len`] before it adds.

/// A first-in, first-out queue of bytes that can be looked at as one slice.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    head: usize,
    tail: usize,
}

impl Buffer {
    /// An empty queue that holds no memory yet.
    pub const fn new() -> Buffer {
        Buffer {
            bytes: Vec::new(),
            head: 0,
            tail: 0,
        }
    }

    /// An empty queue with room for `count` bytes, which the system gives as they are used.
    pub fn with_room(count: usize) -> Buffer {
        Buffer {
            bytes: vec![0; count],
            ..Buffer::new()
        }
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.tail - self.head
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// How much memory is held, in bytes.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// All waiting bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.head..self.tail]
    }

    /// All waiting bytes, to change in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.head..self.tail]
    }

    /// Exactly `count` bytes of room at the tail, to be filled and then taken in by
    /// [`Buffer::commit`].
    pub fn space(&mut self, count: usize) -> &mut [u8] {
        if self.bytes.len() - self.tail < count {
            self.make_room(count);
        }
        &mut self.bytes[self.tail..self.tail + count]
    }

    /// Takes in the first `count` bytes of the space that was asked for last.
    pub fn commit(&mut self, count: usize) {
        assert!(
            count <= self.bytes.len() - self.tail,
            "committed more than there was space for"
        );
        self.tail += count;
    }

    /// Copies `bytes` to the tail.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.bytes.len() - self.tail >= bytes.len() {
            self.bytes[self.tail..self.tail + bytes.len()].copy_from_slice(bytes);
        } else {
            if self.head > 0 {
                self.close_gap();
            }
            // Grows by copying what comes, without filling room with zeros first.
            self.bytes.truncate(self.tail);
            self.bytes.extend_from_slice(bytes);
        }
        self.tail += bytes.len();
    }

    /// Drops `count` bytes from the head.
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "consumed more than was waiting");
        self.head += count;
        if self.head == self.tail {
            self.head = 0;
            self.tail = 0;
        }
    }

    /// Takes the last `count` bytes back out of the queue.
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.len(), "a queue cannot be cut longer");
        self.tail = self.head + len;
        if self.head == self.tail {
            self.head = 0;
            self.tail = 0;
        }
    }

    /// Drops all bytes and the memory under them.
    pub fn release(&mut self) {
        *self = Buffer::new();
    }

    /// Gives the memory back when the queue is empty and holds more than `keep` bytes of it.
    pub fn release_if_idle(&mut self, keep: usize) {
        if self.is_empty() && self.capacity() > keep {
            self.release();
        }
    }

    /// Gives memory back that has been read, once that is more than what waits and more than
    /// `slack` bytes: a slow reader must not hold twice what it was sent.
    pub fn trim(&mut self, slack: usize) {
        if self.head > slack && self.head >= self.len() {
            self.close_gap();
            self.bytes.truncate(self.tail);
            self.bytes.shrink_to(self.tail);
        }
    }

    /// Moves what waits to the front.
    fn close_gap(&mut self) {
        self.bytes.copy_within(self.head..self.tail, 0);
        self.tail -= self.head;
        self.head = 0;
    }

    fn make_room(&mut self, count: usize) {
        if self.head > 0 {
            self.close_gap();
        }
        let needed = self.tail + count;
        if self.bytes.len() < needed {
            // Growth by half again keeps appends cheap without doubling a large buffer.
            let grown = needed
                .max(self.bytes.len() + self.bytes.len() / 2)
                .max(MIN_CAPACITY);
            self.bytes.resize(grown, 0);
        }
    }
}

/// The smallest piece of memory worth asking for, in bytes.
const MIN_CAPACITY: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_they_came() {
        let mut buffer = Buffer::new();
        let mut expected = Vec::new();
        let mut seen = Vec::new();
        for round in 0..200usize {
            let piece: Vec<u8> = (0..round * 7 % 900).map(|n| (n + round) as u8).collect();
            expected.extend_from_slice(&piece);
            if round % 2 == 0 {
                buffer.extend(&piece);
            } else {
                buffer.space(piece.len() + 10)[..piece.len()].copy_from_slice(&piece);
                buffer.commit(piece.len());
            }
            let taken = buffer.len() * 2 / 3;
            seen.extend_from_slice(&buffer.bytes()[..taken]);
            buffer.consume(taken);
        }
        seen.extend_from_slice(buffer.bytes());
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_has_been_read_slowly_is_not_held() {
        let mut buffer = Buffer::new();
        let all: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        buffer.extend(&all);
        let mut seen = Vec::new();
        while !buffer.is_empty() {
            let step = buffer.len().min(1000);
            seen.extend_from_slice(&buffer.bytes()[..step]);
            buffer.consume(step);
            buffer.trim(4096);
            assert!(buffer.capacity() <= 2 * buffer.len() + 4096 + 1000);
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn an_idle_buffer_gives_its_memory_back() {
        let mut buffer = Buffer::new();
        buffer.extend(&[1; 100_000]);
        buffer.release_if_idle(0);
        assert_eq!(buffer.len(), 100_000);
        buffer.consume(100_000);
        buffer.release_if_idle(4096);
        assert_eq!(buffer.capacity(), 0);
    }
}
