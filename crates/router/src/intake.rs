//! Reads a request as far as routing needs it, and keeps its bytes as they came.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header, uri::PathAndQuery,
};
use hyper::body::Incoming;
use tokio::time::Instant;
use types::{
    block::{ChainSeed, HashKey, Scope},
    quantity::Tokens,
    request::{ModelId, Priority, Request as Routed, SessionKey, TenantId},
    slo::Slo,
};
use wire::{
    headers::{self, session::Sources},
    openai::{self, BadRequest, Endpoint},
    prompt::PromptHash,
};

use crate::{
    app::{App, Settings},
    body::{Bounds, Share},
    config::{Asked, read_promise},
    passage::Passage,
    reject::Refusal,
    tenants::Tenant,
    token_ratio::TokenRatios,
    tokenize::Tokenizers,
};

/// Bodies longer than this are read off the threads that serve: parsing takes milliseconds then.
const INLINE_BYTES_MAX: usize = 256 << 10;

/// A request as the dispatcher and the replica will see it.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) request: Routed,
    pub(crate) outbound: Outbound,
}

/// What is sent to the replica.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) request: Request<Bytes>,
    /// How long an answer may take to begin, from the sending.
    pub(crate) answer_within: Duration,
    /// How long the client waits for that, and until when; where it says so.
    pub(crate) patience: Option<(Duration, Instant)>,
    /// The body's share of the memory for bodies.
    _share: Share,
}

/// What routing reads of a body.
struct Read {
    model: String,
    prompt: PromptHash,
    session: Option<SessionKey>,
    tenant: TenantId,
    output_max: Option<Tokens>,
    streamed: bool,
    /// What the names of its blocks begin from, where its tokens can be told.
    tokenised_from: Option<ChainSeed>,
}

/// Reads `request`, of which the headers are taken.
pub(crate) async fn read(
    app: &App,
    passage: &mut Passage,
    request: &mut Request<Incoming>,
) -> Result<Intake, Refusal> {
    let mut headers = std::mem::take(request.headers_mut());
    if headers.get(header::CONTENT_ENCODING).is_some_and(|it| it != "identity") {
        return Err(Refusal::Encoded);
    }
    let settings = Arc::clone(passage.settings());
    // Before the body, which nobody unknown may have us keep.
    let known = settings.tenants.identify(&mut headers)?;
    if let Some(tenant) = &known {
        passage.came_from(tenant);
    }
    let tenant = tenant(&settings, known.as_deref(), &headers)?;
    let nothing = HeaderMap::new();
    let wishes = headers::wants_anything(&headers).then_some(&headers);
    if let Some(problem) = wishes.and_then(misunderstood) {
        return Err(problem);
    }
    let (slo, priority) = promised(app, passage, wishes.unwrap_or(&nothing), tenant.as_deref());
    let patience = wishes.and_then(|it| patience(it, passage.received()));
    let bounds = Bounds {
        bytes_max: settings.limits.body_bytes_max.0,
        announced: headers.get(header::CONTENT_LENGTH).and_then(length),
        within: settings.timeouts.client_body,
        refuses_trailers: request.version() < Version::HTTP_2,
    };
    let (body, share) = app.bodies.receive(bounds, request.body_mut()).await?;
    let endpoint = passage.endpoint();
    let mut read = interpret(&settings.reader, endpoint, &headers, tenant, &body).await?;
    if let Some(seed) = read.tokenised_from {
        let Reader { tokenizers, block, .. } = &*settings.reader;
        let tokenised = tokenizers.hash_prompt(&read.model, endpoint, body.clone(), seed, *block);
        let tokenised = Box::pin(tokenised).await;
        read.prompt = tokenised.unwrap_or(read.prompt);
    }
    passage.describe(&read.model, &read.prompt);
    if let Some(tenant) = known {
        let output_max = if endpoint.generates() { read.output_max } else { Some(Tokens::ZERO) };
        passage.grant(tenant.admit(read.prompt.prompt, output_max)?);
    }

    // Libraries say that they come again, and wish for nothing.
    let came_again = came_again(&headers);
    for_replica(&mut headers, &settings);
    let outbound = outgoing(request.uri(), headers, body, passage.request_id());
    Ok(Intake {
        request: Routed {
            session: read.session,
            tenant: read.tenant,
            priority,
            slo,
            came_again,
            patience_ms: patience.map(|it| left_ms(it.1)),
            output_max: read.output_max,
            streamed: read.streamed,
            ..Routed::new(
                app.fleet.dispatch().next_id(),
                ModelId::from_name(&read.model),
                read.prompt.prompt,
                read.prompt.blocks.into(),
            )
        },
        outbound: Outbound {
            request: outbound,
            answer_within: settings.timeouts.answer,
            patience,
            _share: share,
        },
    })
}

/// The request as it is sent to a replica, with the headers that are left of its own.
fn outgoing(uri: &Uri, mut headers: HeaderMap, body: Bytes, id: &HeaderValue) -> Request<Bytes> {
    headers.insert(headers::REQUEST_ID, id.clone());
    let path = uri.path_and_query().cloned();
    let mut outgoing = Request::new(body);
    *outgoing.method_mut() = Method::POST;
    *outgoing.uri_mut() = path.unwrap_or(PathAndQuery::from_static("/")).into();
    *outgoing.headers_mut() = headers;
    outgoing
}

/// What a request is promised and how urgent it is, as far as its tenant may say so.
fn promised(
    app: &App,
    passage: &mut Passage,
    headers: &HeaderMap,
    tenant: Option<&str>,
) -> (Slo, Priority) {
    let Settings { promises, priorities, .. } = &**passage.settings();
    let Asked { class, slo, priority, is_clamped } =
        read_promise(promises, priorities, headers, tenant);
    if is_clamped {
        app.telemetry.clamped();
    }
    passage.ranked(class, priority);
    (slo, priority)
}

/// Takes off what is none of a replica's business.
fn for_replica(headers: &mut HeaderMap, settings: &Settings) {
    headers::strip_hop_by_hop(headers);
    headers::strip_control(headers);
    headers.remove(header::HOST);
    headers.remove(header::EXPECT);
    // What is compressed can't be watched: no end of a stream, no figures, no error within it.
    headers.remove(header::ACCEPT_ENCODING);
    if let Some(name) = &settings.tenant_header {
        headers.remove(name);
    }
}

/// What a header of ours asks for that nobody understands. Ignored, it would be found out by who waits
/// for longer than it said.
fn misunderstood(headers: &HeaderMap) -> Option<Refusal> {
    let text = |value: &HeaderValue| value.to_str().unwrap_or_default().trim().to_owned();
    let says = |name: HeaderName, is_good: fn(&str) -> bool| {
        headers.get(name).is_some_and(|it| !is_good(&text(it)))
    };
    let cure = "send a whole number of milliseconds, such as 30000";
    if says(headers::TIMEOUT_MS, is_time) {
        let cure = "send a whole number of milliseconds of at least 1, such as 30000";
        return Some(Refusal::Header { name: headers::TIMEOUT_MS, cure });
    }
    let bounds = headers::SLO_TTFT_MS.into_iter().chain(headers::SLO_TPOT_MS);
    // Nought is no bound, as some clients say that they have none.
    if let Some(name) =
        bounds.into_iter().find(|it| says(it.clone(), |it| it.parse::<u64>().is_ok()))
    {
        return Some(Refusal::Header { name, cure });
    }
    if says(headers::PRIORITY, |it| Priority::named(it).is_some()) {
        let cure = "send `system`, `interactive`, `default` or `batch`";
        return Some(Refusal::Header { name: headers::PRIORITY, cure });
    }
    None
}

/// How often the client says that it was turned away before.
fn came_again(headers: &HeaderMap) -> u32 {
    let times = headers::whole_number(headers, &headers::RETRY_COUNT).unwrap_or_default();
    u32::try_from(times).unwrap_or(u32::MAX)
}

/// How long the client says that it waits, and until when.
fn patience(headers: &HeaderMap, received: Instant) -> Option<(Duration, Instant)> {
    let within =
        headers::whole_number(headers, &[headers::TIMEOUT_MS]).map(Duration::from_millis)?;
    Some((within, received.checked_add(within)?))
}

/// Milliseconds until `at`, rounded down, and at least one.
fn left_ms(at: Instant) -> NonZeroU32 {
    let left = at.duration_since(Instant::now()).as_millis();
    NonZeroU32::new(u32::try_from(left).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN)
}

/// Whether `text` says for how long to wait: no time at all is none.
fn is_time(text: &str) -> bool {
    text.parse::<u64>().is_ok_and(|it| 0 < it)
}

fn length(value: &HeaderValue) -> Option<usize> {
    value.to_str().ok()?.parse().ok()
}

/// The name of the tenant that asks, known by its key or named by the proxy in front; none where clients
/// are not told apart.
///
/// # Errors
///
/// When a proxy must name one and none is named.
pub(crate) fn tenant(
    settings: &Settings,
    known: Option<&Tenant>,
    headers: &HeaderMap,
) -> Result<Option<String>, Refusal> {
    if let Some(tenant) = known {
        return Ok(Some(tenant.name.clone()));
    }
    let Some(name) = &settings.tenant_header else { return Ok(None) };
    let value = headers.get(name).ok_or(Refusal::NoTenant)?;
    Ok(Some(String::from_utf8_lossy(value.as_bytes()).into_owned()))
}

/// How bodies are read; the same for all requests.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) hash_key: HashKey,
    pub(crate) block: Tokens,
    pub(crate) sources: Sources,
    /// Whether tenants find each other's prompts.
    pub(crate) tenants_share: bool,
    pub(crate) tokenizers: Arc<Tokenizers>,
    /// How long tokens are, for models without a tokenizer.
    pub(crate) ratios: TokenRatios,
}

impl Reader {
    /// The number of the tenant called so.
    pub(crate) fn tenant_id(&self, name: Option<&str>) -> TenantId {
        name.map_or(TenantId::NONE, |it| TenantId::new(self.hash_key, it))
    }

    fn read(
        &self,
        endpoint: Endpoint,
        headers: &HeaderMap,
        tenant: Option<&str>,
        body: &[u8],
    ) -> Result<Read, BadRequest> {
        let view = openai::parse(endpoint, body)?;
        let key = self.hash_key;
        let prompt = view.hash_prompt_of(
            key,
            tenant.filter(|_| !self.tenants_share),
            self.block,
            self.ratios.centibytes(ModelId::from_name(&view.model)),
        );
        let session = self.sources.find(headers, &view, key, tenant, prompt.first_turn);
        Ok(Read {
            prompt,
            tokenised_from: self.tokenizers.knows(&view.model).then(|| {
                let scope = Scope {
                    model: &view.model,
                    adapter: view.adapter.as_deref(),
                    tenant: tenant.filter(|_| !self.tenants_share),
                    cache_salt: view.cache_salt.as_deref(),
                };
                ChainSeed::new(self.hash_key, &scope)
            }),
            session: session.map(|it| it.key),
            tenant: self.tenant_id(tenant),
            output_max: view.output_max,
            streamed: view.stream,
            model: view.model.into_owned(),
        })
    }
}

/// Reads what routing needs, on this thread when that is brief.
async fn interpret(
    reader: &Arc<Reader>,
    endpoint: Endpoint,
    headers: &HeaderMap,
    tenant: Option<String>,
    body: &Bytes,
) -> Result<Read, Refusal> {
    if body.len() <= INLINE_BYTES_MAX {
        return Ok(reader.read(endpoint, headers, tenant.as_deref(), body)?);
    }
    let (reader, headers, body) = (Arc::clone(reader), headers.clone(), body.clone());
    let reading = tokio::task::spawn_blocking(move || {
        reader.read(endpoint, &headers, tenant.as_deref(), &body)
    });
    match reading.await {
        Ok(read) => Ok(read?),
        Err(_) => Err(Refusal::Unreadable),
    }
}
