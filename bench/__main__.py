"""``python -m bench`` is ``tvc-bench``."""

from bench.cli.main import main

if __name__ == "__main__":
    main()
