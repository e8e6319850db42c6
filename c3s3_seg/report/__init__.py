"""Report measurements for people and for programs: tables, statistics, pictures, pages."""
