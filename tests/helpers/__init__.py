"""What several tests share: tiny models, data files, made-up studies, misbehaving workers, processes."""
