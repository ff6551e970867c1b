"""The only place that knows protobuf: types, literals, templates, status, and the two wire families."""
