"""What was measured, for people and for programs: tables, statistics, pictures, pages."""
