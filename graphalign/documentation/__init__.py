"""The pages and pictures of the documentation that are generated: `python -m graphalign.documentation`."""
