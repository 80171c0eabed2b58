"""The only package that speaks Dapr. The rest sees "publish this job", "read this record"."""
