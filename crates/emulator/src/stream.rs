//! An answer as server-sent events, one for each token while the reader keeps up.
//!
//! What is the same in every event is formatted once for a request; an event costs a lock, three
//! copies and one allocation.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use types::quantity::{BYTES_PER_TOKEN, Tokens};

use crate::{
    answer::{Answer, FinishReason},
    completion::UsageOf,
    dialect::Dialect,
    drive::Ticket,
    error::ApiError,
    faults::Cut,
    inbox::{News, Reached},
    reply::{FINGERPRINT, Head},
    serve::Abrupt,
};

/// The events of one request; dropping them aborts the answers that have not ended.
#[derive(Debug)]
pub(crate) struct Events {
    ticket: Ticket,
    choices: Vec<Choice>,
    /// Tokens sent of each choice.
    sent: Vec<Tokens>,
    frame: Frame,
    usage: UsageOf,
    wants_usage: bool,
    wants_continuous_usage: bool,
    /// How the answer is cut short, and after how many events.
    cut: Option<(Cut, u32)>,
    /// Events sent, the opening ones included.
    events: u32,
    stage: Stage,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Tokens,
    Done,
    /// The connection has had time to send what came before, and now breaks.
    Break,
    End,
}

/// One answer on its way.
#[derive(Debug)]
struct Choice {
    answer: Answer,
    /// The event up to the text.
    head: String,
    /// Whether the event that names the role was sent, or there is none.
    opened: bool,
}

/// What all events of a request share.
#[derive(Debug)]
struct Frame {
    dialect: Dialect,
    /// `data: {"id":…,"object":…,"created":…,"model":…,"choices":[`
    start: String,
}

impl Frame {
    fn new(head: &Head) -> Self {
        let start = format!(
            "data: {{\"id\":{},\"object\":\"{}\",\"created\":{},\"model\":{},\"choices\":[",
            head.id.get(),
            head.dialect.chunk_object(),
            head.created,
            head.model.get(),
        );
        Self { dialect: head.dialect, start }
    }

    /// An event up to the text of choice number `index`.
    fn before_text(&self, index: usize) -> String {
        let start = &self.start;
        match self.dialect {
            Dialect::Chat => format!("{start}{{\"index\":{index},\"delta\":{{\"content\":\""),
            Dialect::Completion => format!("{start}{{\"index\":{index},\"text\":\""),
        }
    }

    /// An event from the text on, less what closes it.
    const fn after_text(&self, end: Option<FinishReason>) -> &'static str {
        match (self.dialect, end) {
            (Dialect::Chat, None) => {
                r#""},"logprobs":null,"finish_reason":null,"token_ids":null}]"#
            }
            (Dialect::Chat, Some(FinishReason::Stop)) => {
                r#""},"logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null}]"#
            }
            (Dialect::Chat, Some(FinishReason::Length)) => {
                r#""},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}]"#
            }
            (Dialect::Completion, None) => {
                r#"","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]"#
            }
            (Dialect::Completion, Some(FinishReason::Stop)) => {
                r#"","logprobs":null,"finish_reason":"stop","stop_reason":null,"prompt_token_ids":null,"token_ids":null}]"#
            }
            (Dialect::Completion, Some(FinishReason::Length)) => {
                r#"","logprobs":null,"finish_reason":"length","stop_reason":null,"prompt_token_ids":null,"token_ids":null}]"#
            }
        }
    }

    /// The event that opens an answer in a chat: who speaks.
    fn role(&self, index: usize, usage: &str) -> String {
        format!(
            "{}{{\"index\":{index},\"delta\":{{\"role\":\"assistant\",\"content\":\"\"}},\
             \"logprobs\":null,\"finish_reason\":null}}]{usage},\"prompt_token_ids\":null,\
             \"prompt_text\":null}}\n\n",
            self.start
        )
    }
}

impl Events {
    pub(crate) fn new(
        head: &Head,
        answers: Vec<Answer>,
        ticket: Ticket,
        usage: UsageOf,
        cut: Option<(Cut, u32)>,
    ) -> Self {
        let frame = Frame::new(head);
        let opened = head.dialect == Dialect::Completion;
        let choice = |(index, answer)| Choice { answer, head: frame.before_text(index), opened };
        Self {
            ticket,
            sent: vec![Tokens::ZERO; answers.len()],
            choices: answers.into_iter().enumerate().map(choice).collect(),
            frame,
            usage,
            wants_usage: false,
            wants_continuous_usage: false,
            cut,
            events: 0,
            stage: Stage::Tokens,
        }
    }

    /// Asks for an event with the usage at the end, and for the usage so far in every event.
    pub(crate) fn with_usage(mut self, at_end: bool, continuous: bool) -> Self {
        self.wants_usage = at_end;
        self.wants_continuous_usage = continuous;
        self
    }

    /// The next piece of the body; `None` is its end.
    pub(crate) fn poll_next(
        &mut self,
        context: &Context<'_>,
    ) -> Poll<Option<Result<Bytes, Abrupt>>> {
        if self.stage == Stage::Tokens
            && let Some(cut) = self.cut_due(context)
        {
            return cut;
        }
        let piece = match self.stage {
            Stage::Tokens => match self.ticket.inbox.poll_news(context, &self.sent) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(News::Tokens(index, reached)) => self.tokens(index, reached),
                Poll::Ready(News::End) if self.wants_usage => self.last_usage(),
                Poll::Ready(News::End) => self.done(),
            },
            Stage::Done => self.done(),
            Stage::Break => {
                self.stage = Stage::End;
                return Poll::Ready(Some(Err(Abrupt)));
            }
            Stage::End => return Poll::Ready(None),
        };
        self.events = self.events.saturating_add(1);
        Poll::Ready(Some(Ok(piece)))
    }

    /// What happens instead of the next event, if the answer is to be cut short here.
    fn cut_due(&mut self, context: &Context<'_>) -> Option<Poll<Option<Result<Bytes, Abrupt>>>> {
        let (cut, _) = self.cut.filter(|(_, after)| self.events >= *after)?;
        match cut {
            Cut::Break => {
                // Let the connection flush first, so that the reader gets the events before.
                self.stage = Stage::Break;
                context.waker().wake_by_ref();
                Some(Poll::Pending)
            }
            Cut::Stall => Some(Poll::Pending),
            Cut::EngineDeath => {
                self.stage = Stage::Done;
                let body = ApiError::engine_dead().body();
                let event = [b"data: ", body.as_ref(), b"\n\n"].concat();
                Some(Poll::Ready(Some(Ok(event.into()))))
            }
        }
    }

    fn tokens(&mut self, index: usize, reached: Reached) -> Bytes {
        let usage = self.usage_so_far(index, reached);
        let (Some(choice), Some(sent)) = (self.choices.get_mut(index), self.sent.get_mut(index))
        else {
            return Bytes::new();
        };
        if !choice.opened {
            choice.opened = true;
            return self.frame.role(index, &usage).into();
        }
        let from = (sent.0 as usize).saturating_mul(BYTES_PER_TOKEN);
        let to = (reached.generated.0 as usize).saturating_mul(BYTES_PER_TOKEN);
        *sent = reached.generated;
        let text = choice.answer.text.get(from..to).unwrap_or_default();
        let end = reached.ended.then_some(choice.answer.finish_reason);
        let tail = self.frame.after_text(end);
        let size = [choice.head.len(), text.len(), tail.len(), usage.len(), 64].iter().sum();
        let mut event = BytesMut::with_capacity(size);
        event.extend_from_slice(choice.head.as_bytes());
        event.extend_from_slice(text.as_bytes());
        event.extend_from_slice(tail.as_bytes());
        event.extend_from_slice(usage.as_bytes());
        if reached.ended && !self.wants_usage && self.frame.dialect == Dialect::Chat {
            let fingerprint = format!(",\"system_fingerprint\":\"{FINGERPRINT}\"");
            event.extend_from_slice(fingerprint.as_bytes());
        }
        event.extend_from_slice(b"}\n\n");
        event.freeze()
    }

    /// `,"usage":{…}` where every event is to have it. The usage is that of the request as far as
    /// it was sent.
    fn usage_so_far(&self, index: usize, reached: Reached) -> String {
        if !self.wants_continuous_usage {
            return String::new();
        }
        let opened = self.choices.get(index).is_some_and(|choice| choice.opened);
        let sent = self.sent.iter().enumerate().map(|(at, sent)| Reached {
            generated: if at == index && opened { reached.generated } else { *sent },
            ..Reached::default()
        });
        let usage = self.usage.of(&sent.collect::<Vec<Reached>>());
        format!(",\"usage\":{}", usage.so_far())
    }

    fn last_usage(&mut self) -> Bytes {
        self.stage = Stage::Done;
        let usage = self.usage.of(&self.ticket.inbox.reached()).in_stream();
        format!(
            "{}],\"usage\":{usage},\"system_fingerprint\":\"{FINGERPRINT}\"}}\n\n",
            self.frame.start
        )
        .into()
    }

    fn done(&mut self) -> Bytes {
        self.stage = Stage::End;
        Bytes::from_static(b"data: [DONE]\n\n")
    }
}
