//! `requests.parquet`: the records as columns, for tools that read tables of many millions of rows.
//!
//! Columns are called as in `requests.jsonl`; what is a structure there has a column for each part
//! (`itl_p95_ms`, `slo_good`). A value that a record does not have is null. Times are seconds from the run's
//! start, latencies are left to the reader, who has the definitions.

use std::{io::Write, sync::Arc};

use parquet::{
    basic::{LogicalType, Repetition, Type as Physical},
    data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type},
    errors::ParquetError,
    file::{
        properties::WriterProperties,
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::types::Type,
};
use report::{Ending, RequestRecord, record::Gaps};
use types::time::Timestamp;

/// Rows of a group: what a reader takes in at once, and what the writer holds.
const GROUP_ROWS: usize = 100_000;

/// The values of a column.
enum Column {
    Text(fn(&RequestRecord) -> Option<&str>),
    Whole(fn(&RequestRecord) -> Option<i64>),
    Number(fn(&RequestRecord) -> Option<f64>),
    Flag(fn(&RequestRecord) -> Option<bool>),
}

fn seconds(at: Timestamp) -> f64 {
    at.elapsed().as_secs_f64()
}

const fn ending(record: &RequestRecord) -> &'static str {
    match record.ending {
        Ending::Completed => "completed",
        Ending::Rejected => "rejected",
        Ending::Cancelled => "cancelled",
        Ending::Failed => "failed",
    }
}

/// A part of what is kept of the gaps.
fn gaps(record: &RequestRecord, part: fn(Gaps) -> f64) -> Option<f64> {
    record.itl.map(part)
}

/// Every column, in the order of `requests.jsonl`.
const COLUMNS: [(&str, Column); 32] = [
    ("request_id", Column::Text(|it| Some(&it.request_id))),
    // Names of sessions are 64 bits wide, of which a column of whole numbers has the same, signed.
    ("session", Column::Whole(|it| it.session.map(u64::cast_signed))),
    ("turn", Column::Whole(|it| Some(it.turn.into()))),
    ("turns", Column::Whole(|it| it.turns.map(Into::into))),
    ("tenant", Column::Whole(|it| it.tenant.map(Into::into))),
    ("slo_class", Column::Text(|it| it.slo_class.as_deref())),
    ("workload_class", Column::Text(|it| it.workload_class.map(|it| it.as_str()))),
    ("scheduled_s", Column::Number(|it| Some(seconds(it.scheduled)))),
    ("sent_s", Column::Number(|it| it.sent.map(seconds))),
    ("first_token_s", Column::Number(|it| it.first_token.map(seconds))),
    ("last_token_s", Column::Number(|it| it.last_token.map(seconds))),
    ("ended_s", Column::Number(|it| Some(seconds(it.ended)))),
    ("input_tokens", Column::Whole(|it| Some(it.input_tokens.0.into()))),
    ("output_tokens", Column::Whole(|it| Some(it.output_tokens.0.into()))),
    ("cached_tokens", Column::Whole(|it| it.cached_tokens.map(|it| it.0.into()))),
    ("itl_mean_ms", Column::Number(|it| gaps(it, |gaps| gaps.mean_ms))),
    ("itl_min_ms", Column::Number(|it| gaps(it, |gaps| gaps.min_ms))),
    ("itl_p95_ms", Column::Number(|it| gaps(it, |gaps| gaps.p95_ms))),
    ("itl_max_ms", Column::Number(|it| gaps(it, |gaps| gaps.max_ms))),
    ("replica", Column::Text(|it| it.replica.as_deref())),
    ("decision", Column::Text(|it| it.decision.as_deref())),
    ("attempts", Column::Whole(|it| it.attempts.map(Into::into))),
    ("ending", Column::Text(|it| Some(ending(it)))),
    ("status", Column::Whole(|it| it.status.map(Into::into))),
    ("error", Column::Text(|it| it.error.as_deref())),
    ("accepted", Column::Flag(|it| it.accepted)),
    ("quality", Column::Number(|it| it.quality)),
    ("slo_ttft", Column::Flag(|it| it.slo.ttft)),
    ("slo_tpot", Column::Flag(|it| it.slo.tpot)),
    ("slo_e2e", Column::Flag(|it| it.slo.e2e)),
    ("slo_completion", Column::Flag(|it| it.slo.completion)),
    ("slo_good", Column::Flag(|it| Some(it.slo.good))),
];

impl Column {
    fn field(&self, name: &str) -> Result<Type, ParquetError> {
        let (physical, logical) = match self {
            Self::Text(_) => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Self::Whole(_) => (Physical::INT64, None),
            Self::Number(_) => (Physical::DOUBLE, None),
            Self::Flag(_) => (Physical::BOOLEAN, None),
        };
        Type::primitive_type_builder(name, physical)
            .with_logical_type(logical)
            .with_repetition(Repetition::OPTIONAL)
            .build()
    }

    fn write<W: Write + Send>(
        &self,
        group: &mut SerializedRowGroupWriter<'_, W>,
        rows: &[RequestRecord],
    ) -> Result<(), ParquetError> {
        match self {
            Self::Text(of) => {
                put::<W, ByteArrayType>(group, rows.iter().map(|it| of(it).map(ByteArray::from)))
            }
            Self::Whole(of) => put::<W, Int64Type>(group, rows.iter().map(of)),
            Self::Number(of) => put::<W, DoubleType>(group, rows.iter().map(of)),
            Self::Flag(of) => put::<W, BoolType>(group, rows.iter().map(of)),
        }
    }
}

/// Writes the next column of `group`.
fn put<W: Write + Send, T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: impl Iterator<Item = Option<T::T>>,
) -> Result<(), ParquetError> {
    let (mut there, mut levels) = (Vec::new(), Vec::new());
    for value in values {
        levels.push(i16::from(value.is_some()));
        there.extend(value);
    }
    let column = group.next_column()?;
    let mut column = column.ok_or_else(|| ParquetError::General("too few columns".to_owned()))?;
    column.typed::<T>().write_batch(&there, Some(&levels), None)?;
    column.close()
}

/// Writes `records` to `out`.
///
/// # Errors
/// What `out` says.
pub(crate) fn write<W: Write + Send>(
    out: W,
    records: &[RequestRecord],
) -> Result<(), ParquetError> {
    let fields: Result<Vec<_>, _> =
        COLUMNS.iter().map(|(name, column)| column.field(name).map(Arc::new)).collect();
    let schema = Type::group_type_builder("request").with_fields(fields?).build()?;
    let properties = Arc::new(WriterProperties::builder().build());
    let mut file = SerializedFileWriter::new(out, Arc::new(schema), properties)?;
    for rows in records.chunks(GROUP_ROWS) {
        let mut group = file.next_row_group()?;
        for (_, column) in &COLUMNS {
            column.write(&mut group, rows)?;
        }
        group.close()?;
    }
    file.close().map(drop)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs::File, time::Duration};

    use parquet::{
        file::reader::{FileReader as _, SerializedFileReader},
        record::Field,
    };
    use types::quantity::Tokens;

    use super::*;

    fn record(number: u64) -> RequestRecord {
        let at = |millis| Timestamp::from_elapsed(Duration::from_millis(millis));
        RequestRecord {
            request_id: format!("r{number}"),
            session: number.is_multiple_of(2).then_some(u64::MAX - number),
            scheduled: at(number * 10),
            first_token: Some(at(number * 10 + 250)),
            ended: at(number * 10 + 900),
            output_tokens: Tokens(7),
            replica: number.is_multiple_of(3).then(|| "gpu-1".to_owned()),
            ending: Ending::Completed,
            ..RequestRecord::default()
        }
    }

    /// The rows of a file, each as its values by name.
    fn read(file: File) -> Vec<BTreeMap<String, Field>> {
        let reader = SerializedFileReader::new(file).unwrap();
        let rows = reader.get_row_iter(None).unwrap();
        rows.map(|row| {
            let row = row.unwrap();
            row.get_column_iter().map(|(name, field)| (name.clone(), field.clone())).collect()
        })
        .collect()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut out = tempfile::tempfile().unwrap();
        let records: Vec<RequestRecord> = (0..1_000).map(record).collect();
        write(&mut out, &records).unwrap();
        let rows = read(out);
        assert_eq!((rows.len(), rows[0].len()), (1_000, COLUMNS.len()));
        for (number, row) in (0..).zip(&rows) {
            let record: RequestRecord = record(number);
            assert_eq!(row["request_id"], Field::Str(record.request_id));
            let session = record.session.map_or(Field::Null, |it| Field::Long(it.cast_signed()));
            assert_eq!(row["session"], session);
            assert_eq!(row["scheduled_s"], Field::Double(seconds(record.scheduled)));
            assert_eq!(row["output_tokens"], Field::Long(7));
            assert_eq!(row["replica"], record.replica.map_or(Field::Null, Field::Str));
            assert_eq!(
                (&row["ending"], &row["slo_good"]),
                (&Field::Str("completed".to_owned()), &Field::Bool(false))
            );
            assert_eq!(row["error"], Field::Null);
        }
    }

    #[test]
    fn nothing_is_a_file_too() {
        let mut out = tempfile::tempfile().unwrap();
        write(&mut out, &[]).unwrap();
        assert!(read(out).is_empty());
    }
}
