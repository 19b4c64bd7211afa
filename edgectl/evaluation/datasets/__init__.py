"""Public labelled corpora: what is known of them (`catalogue`), and fetching them when somebody asks (`fetching`)."""
