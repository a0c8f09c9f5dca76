//! The body of a response, as lines and as a whole, with an end to how much and how long.
//!
//! Not here: what the lines say (`follow`).

use std::time::Duration;

use http_body_util::BodyExt;
use kube::client::Body;
use tokio::time::timeout;

use super::failure::Cause;

/// How long a line may be: an object has 1.5 MiB at most (etcd's `--max-request-bytes`), its JSON several times that in the
/// worst case.
const LINE_MAX: usize = 16 << 20;

/// A body that is read line by line.
pub(super) struct Lines {
    body: Body,
    buffer: Vec<u8>,
    /// Where the next line begins, and how far no line end was found.
    next: usize,
    searched: usize,
}

impl Lines {
    pub(super) fn of(body: Body) -> Self {
        Self {
            body,
            buffer: Vec::new(),
            next: 0,
            searched: 0,
        }
    }

    /// The next line without its end, waiting so long for a part of it; `None` at the end of the body. What comes after the last
    /// line end was cut off and is not told. Cancelling it loses nothing.
    pub(super) async fn next(&mut self, patience: Duration) -> Result<Option<&[u8]>, Cause> {
        loop {
            if let Some(length) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.next..self.searched + length;
                (self.next, self.searched) = (line.end + 1, line.end + 1);
                return Ok(Some(&self.buffer[line]));
            }
            self.buffer.drain(..self.next);
            (self.next, self.searched) = (0, self.buffer.len());
            if self.buffer.len() > LINE_MAX {
                return Err(Cause::TooLong(LINE_MAX));
            }
            if self.buffer.is_empty() {
                self.buffer.shrink_to(64 << 10);
            }
            let Some(data) = part(&mut self.body, patience).await? else {
                return Ok(None);
            };
            self.buffer.extend_from_slice(&data);
        }
    }
}

/// The whole body, if it is no longer than this.
pub(super) async fn whole(mut body: Body, patience: Duration, length_max: usize) -> Result<Vec<u8>, Cause> {
    let mut whole = Vec::new();
    while let Some(data) = part(&mut body, patience).await? {
        whole.extend_from_slice(&data);
        if whole.len() > length_max {
            return Err(Cause::TooLong(length_max));
        }
    }
    Ok(whole)
}

async fn part(
    body: &mut Body,
    patience: Duration,
) -> Result<Option<impl AsRef<[u8]> + std::ops::Deref<Target = [u8]> + use<>>, Cause> {
    loop {
        let frame = timeout(patience, body.frame())
            .await
            .map_err(|_| Cause::Stalled(patience))?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(Cause::Cut(error.to_string().into())),
            // Trailers are nothing that is read.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    async fn lines(text: &str) -> Vec<String> {
        let mut lines = Lines::of(Body::from(text.as_bytes().to_vec()));
        let mut all = Vec::new();
        while let Some(line) = lines.next(SOON).await.unwrap() {
            all.push(String::from_utf8(line.to_vec()).unwrap());
        }
        all
    }

    #[tokio::test]
    async fn only_whole_lines_count() {
        assert_eq!(lines("").await, [""; 0]);
        assert_eq!(lines("a\n\nbc\nhalf").await, ["a", "", "bc"]);
    }

    #[tokio::test]
    async fn neither_a_line_nor_a_page_grows_without_end() {
        let long = vec![b'x'; LINE_MAX + 1];
        assert!(matches!(
            Lines::of(Body::from(long.clone())).next(SOON).await,
            Err(Cause::TooLong(LINE_MAX))
        ));
        assert!(matches!(
            whole(Body::from(long.clone()), SOON, LINE_MAX).await,
            Err(Cause::TooLong(LINE_MAX))
        ));
        assert_eq!(
            whole(Body::from(long), SOON, LINE_MAX + 1).await.unwrap().len(),
            LINE_MAX + 1
        );
    }
}
